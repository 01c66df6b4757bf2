#!/bin/sh
# secrets.sh [FOLDER]: makes what compose.yaml needs and what is missing in FOLDER (the
# project's by default): .env, and the three secrets it names. Nothing is overwritten.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
cd "${1:-$top}"
[ -e .env ] || cp "$top/.env.example" .env
[ -d secrets ] || mkdir -m 700 secrets
for name in nats_token redis_password admin_token; do
	[ -e "secrets/$name" ] && continue
	od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"secrets/$name"
	# The containers' users read it; the folder keeps everybody else out.
	chmod 444 "secrets/$name"
done
