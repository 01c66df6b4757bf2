#!/bin/sh
# start.sh [OPTION...]: redis-server with redis.conf from this script's folder, further
# options, and the users below, whose passwords are in the files redis_<user> of
# SECRETS_DIR. The server reads them from its standard input, so that they are in no
# argument and no environment; it keeps their hashes.
set -eu
for user in gateway cachewriter reader; do
	file=${SECRETS_DIR:-/run/secrets}/redis_$user
	password=$(cat "$file")
	# An empty password would mean none at all; others than these would need quoting.
	case $password in
	'' | *[!A-Za-z0-9._~-]*)
		echo "$file: letters, digits and . _ ~ - are expected; make one with: openssl rand -hex 24" >&2
		exit 1
		;;
	esac
	eval "$user=\$password"
done
# The gateway reads answers and the marker of whose data they are, and deletes and counts
# answers for an invalidation. The cachewriter reads the version beside an answer and
# writes both, by a script or, of many, in a transaction. The reader is for the health check and for people. Nobody can be
# the default user, but its rights count when Redis reads its append-only file: without
# them it drops what a script had written.
exec redis-server "$(dirname "$0")/redis.conf" "$@" - <<END
user default off resetpass ~* +@all
user gateway on >$gateway ~sunat:ruc:* (~sunat:fuente +get) +get +del +scan
user cachewriter on >$cachewriter ~sunat:ruc:* ~seq:{sunat:ruc:* ~sunat:fuente +get +set +eval +evalsha +watch +unwatch +multi +exec
user reader on >$reader ~sunat:* ~seq:{sunat:* +ping +get +ttl +exists +scan
END
