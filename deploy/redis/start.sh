#!/bin/sh
# start.sh [OPTION...]: redis-server with redis.conf from this script's folder, further
# options, and the password in the file REDIS_PASSWORD_FILE.
set -eu
password=$(cat "$REDIS_PASSWORD_FILE")
# An empty password would mean none at all; others than these would need quoting.
case $password in
'' | *[!A-Za-z0-9._~-]*)
	echo "$REDIS_PASSWORD_FILE: letters, digits and . _ ~ - are expected; make one with: openssl rand -hex 24" >&2
	exit 1
	;;
esac
exec redis-server "$(dirname "$0")/redis.conf" "$@" - <<END
requirepass $password
END
