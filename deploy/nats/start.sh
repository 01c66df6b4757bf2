#!/bin/sh
# start.sh [OPTION...]: nats-server with nats-server.conf from this script's folder,
# further options, the passwords in the files nats_<user> of SECRETS_DIR, and the streams in
# STORE_DIR.
set -eu
for user in setup gateway scraper cachewriter audit prewarm client admin; do
	file=${SECRETS_DIR:-/run/secrets}/nats_$user
	password=$(cat "$file")
	# An empty password is no password; others than these do not fit into a URL.
	case $password in
	'' | *[!A-Za-z0-9._~-]*)
		echo "$file: letters, digits and . _ ~ - are expected; make one with: openssl rand -hex 24" >&2
		exit 1
		;;
	esac
	# In quotes, or a password of digits alone would be read as a number.
	export "nats_$user=\"$password\""
done
export nats_store_dir="\"${STORE_DIR:-/data}\""
exec nats-server --config "$(dirname "$0")/nats-server.conf" "$@"
