#!/bin/sh
# start.sh [OPTION...]: nats-server with nats-server.conf from this script's folder,
# further options, and the token in the file NATS_TOKEN_FILE.
set -eu
token=$(cat "$NATS_TOKEN_FILE")
# An empty token would mean none at all; others than these do not fit into a URL.
case $token in
'' | *[!A-Za-z0-9._~-]*)
	echo "$NATS_TOKEN_FILE: letters, digits and . _ ~ - are expected; make one with: openssl rand -hex 24" >&2
	exit 1
	;;
esac
# In quotes, or a token of digits alone would be read as a number.
NATS_TOKEN="\"$token\""
export NATS_TOKEN
exec nats-server --config "$(dirname "$0")/nats-server.conf" "$@"
