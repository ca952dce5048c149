#!/usr/bin/env bash
# Runs a program on several hosts and compares the digest that it prints with that of one process.
#
#   scripts/test_hosts.sh [--hosts N] PROGRAM [ARGUMENT...]
#
# The hosts are network namespaces of this machine, each with an address and a host name of its own, on one bridge: the
# ranks, one a host, meet only through TCP. That takes root, ip (iproute2), unshare (util-linux) and Open MPI. Where
# namespaces are not allowed, a line says so and the ranks run on one host, over TCP still.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }
hosts=2
while [ $# -gt 0 ]; do
  case $1 in
    --hosts)
      [[ ${2:-} =~ ^[1-9][0-9]?$ ]] || { echo "test_hosts.sh: --hosts takes 1 to 99" >&2; exit 2; }
      hosts=$2
      shift 2
      ;;
    -h | --help) usage; exit 0 ;;
    -*) echo "test_hosts.sh: does not know $1 (--help)" >&2; exit 2 ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || { usage >&2; exit 2; }

launcher=$(command -v mpirun.openmpi || command -v mpirun) || { echo "test_hosts.sh: there is no mpirun" >&2; exit 1; }
case $("$launcher" --version 2>/dev/null) in
  *"Open MPI"* | *OpenRTE*) ;;
  *) echo "test_hosts.sh: $launcher is not Open MPI's, whose options it needs" >&2; exit 1 ;;
esac

work=$(mktemp -d)
# Names of this run's own: an interface's has at most 15 characters.
name=th$$
made=()
clean_up() {
  local space process
  for space in "${made[@]}"; do
    # What a killed launch left in the namespace would keep it alive.
    for process in $(ip netns pids "$space" 2>/dev/null); do kill -9 "$process" 2>/dev/null || true; done
    ip netns del "$space" 2>/dev/null || true
  done
  ip link del "${name}b" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT

make_hosts() {
  local host
  ip link add "${name}b" type bridge && ip link set "${name}b" up || return 1
  for ((host = 1; host <= hosts; ++host)); do
    ip netns add "${name}n$host" || return 1
    made+=("${name}n$host")
    ip link add "${name}v$host" type veth peer name eth0 netns "${name}n$host" || return 1
    ip link set "${name}v$host" master "${name}b" && ip link set "${name}v$host" up || return 1
    ip -n "${name}n$host" addr add "10.231.77.$host/24" dev eth0 || return 1
    ip -n "${name}n$host" link set eth0 up && ip -n "${name}n$host" link set lo up || return 1
  done
}

digest_of() { sed -n 's/.*digest[": ]*\([0-9a-fx]\{8,\}\).*/\1/p' "$1"; }

echo "one process: $*"
"$@" >"$work/one.out"
expected=$(digest_of "$work/one.out")
[ -n "$expected" ] || { cat "$work/one.out"; echo "test_hosts.sh: $1 prints no digest" >&2; exit 1; }

# Neither shared memory nor any other way past TCP.
options=(--allow-run-as-root --oversubscribe -n "$hosts" --mca pml ob1 --mca btl "tcp,self" --mca osc "^ucx"
  --mca mpi_yield_when_idle 1)
failed=0
if [ "$(id -u)" -eq 0 ] && command -v ip >/dev/null && command -v unshare >/dev/null &&
  make_hosts 2>"$work/log" && unshare --uts true 2>>"$work/log"; then
  # What Open MPI takes for ssh: the first word is the host's address, the others are a line for a shell.
  cat >"$work/agent" <<AGENT
#!/bin/sh
address=\$1
shift
number=\${address##*.}
exec ip netns exec "${name}n\$number" unshare --uts sh -c "hostname host\$number; \$*"
AGENT
  chmod +x "$work/agent"
  list=""
  for ((host = 1; host <= hosts; ++host)); do list+="${list:+,}10.231.77.$host:1"; done
  echo "$hosts hosts, which are network namespaces:"
  # The launcher is on the first of them.
  ip netns exec "${name}n1" unshare --uts sh -c 'hostname host1; exec "$@"' sh \
    timeout --kill-after 5 300 "$launcher" "${options[@]}" --map-by node --host "$list" \
    --mca plm_rsh_agent "$work/agent" --mca btl_tcp_if_include 10.231.77.0/24 \
    --mca oob_tcp_if_include 10.231.77.0/24 "$@" >"$work/many.out" || failed=$?
  # Bytes that left the first host, by the count of its interface.
  sent=$(ip netns exec "${name}n1" cat /sys/class/net/eth0/statistics/tx_bytes 2>/dev/null ||
    ip -n "${name}n1" -s link show eth0 | awk '/TX:/ {getline; print $1}')
  echo "the first host sent $sent bytes"
else
  echo "no network namespaces here ($(tail -n 1 "$work/log" 2>/dev/null || echo "they take root and iproute2")): $hosts \
ranks on one host, over TCP"
  timeout --kill-after 5 300 "$launcher" "${options[@]}" --mca btl_tcp_if_include 127.0.0.0/8 "$@" \
    >"$work/many.out" || failed=$?
fi
cat "$work/many.out"
[ "$failed" -eq 0 ] || { echo "test_hosts.sh: $launcher ended with $failed" >&2; exit 1; }
found=$(digest_of "$work/many.out")
[ "$found" = "$expected" ] || { echo "test_hosts.sh: digest ${found:-(none)}, one process has $expected" >&2; exit 1; }
echo "digest $found, as on one process"
