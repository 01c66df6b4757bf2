#!/usr/bin/env bash
# Asks and listens with the nats command (github.com/nats-io/natscli), by NATS_URL.
# That command itself is not tested here: a test sends what it is told to, by another client.
set -euo pipefail

what="${2:-}"
case "${1:-}" in
  lookup) # the cache first; exit status 0 for errors too, which the reply's headers tell
    nats request --timeout 46s --header Ruc-Wait:45000 ruc.lookup "$what" ;;
  held) # no visit
    nats request --timeout 5s --header Cache-Control:only-if-cached ruc.lookup "$what" ;;
  resolve) # SUNAT itself
    nats request --timeout 46s --header Ruc-Wait:45000 ruc.resolve "$what" ;;
  events) # resolved, failed, changed or 'progress.*'
    nats subscribe "ruc.${what:-resolved}" ;;
  *)
    echo "usage: $0 lookup RUC | held RUC | resolve RUC | events [KIND]" >&2
    exit 2 ;;
esac
