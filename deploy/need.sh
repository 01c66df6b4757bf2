#!/usr/bin/env bash
# need.sh PACKAGE FILE...: makes sure that one of the files can be run. If none can,
# root on Debian installs the package; anybody else is told the line that does.
set -euo pipefail

package=$1
shift
for file in "$@"; do
  if [[ -n $file && -x $file ]]; then exit 0; fi
done
line="apt-get update && apt-get install -y --no-install-recommends $package"
if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
  echo "$package is missing. Install it and run this again:" >&2
  echo "  sudo sh -c '$line'" >&2
  exit 1
fi
echo "Installing $package."
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends "$package" >/dev/null
