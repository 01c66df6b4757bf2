#!/bin/sh
# secrets.sh [FOLDER]: makes what compose.yaml needs and what is missing in FOLDER (the
# project's by default): .env, and the secrets. Nothing is overwritten.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
cd "${1:-$top}"
[ -e .env ] || cp "$top/.env.example" .env
# An .env of before there was this setting gets it.
grep -q '^SECRETS_DIR=' .env || echo 'SECRETS_DIR=./secrets' >>.env
[ -d secrets ] || mkdir -m 700 secrets
for name in nats_setup nats_gateway nats_scraper nats_cachewriter nats_audit nats_prewarm nats_client nats_admin \
	redis_gateway redis_cachewriter redis_reader admin_token grafana_admin; do
	[ -e "secrets/$name" ] && continue
	od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"secrets/$name"
	# The containers' users read it; the folder keeps everybody else out.
	chmod 444 "secrets/$name"
done
