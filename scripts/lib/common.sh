# shellcheck shell=bash
# Shared by the scripts in the folder above. Source it from bash, under `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
VENV=$ROOT/.venv
LOG=$ROOT/log/scripts.log

step() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# Run a command with its output in the log: show how long it has been at it, and the log's
# end where it fails. Returns the command's status.
#   quietly TITLE COMMAND...
quietly() {
	local title=$1 begin=$SECONDS ticker status=0
	shift
	mkdir -p "$(dirname "$LOG")"
	: >>"$(dirname "$LOG")/COLCON_IGNORE"
	printf '\n--- %s\n' "$*" >>"$LOG"
	note "$title"
	progress "$begin" &
	ticker=$!
	# Expanded now: the ticker must also end where the command is interrupted.
	# shellcheck disable=SC2064
	trap "kill $ticker 2>/dev/null || true" EXIT
	"$@" >>"$LOG" 2>&1 </dev/null || status=$?
	kill "$ticker" 2>/dev/null || true
	wait "$ticker" 2>/dev/null || true
	trap - EXIT
	[ ! -t 1 ] || printf '\r\033[K'
	if [ "$status" = 0 ]; then
		[ $((SECONDS - begin)) -lt 2 ] || note "done in $((SECONDS - begin)) s"
	else
		tail -n 15 "$LOG" | sed 's/^/    | /' >&2
		note "failed after $((SECONDS - begin)) s; all of it is in $LOG" >&2
	fi
	return "$status"
}

progress() {
	local every=10 form='    ... %d s: %s\n'
	# On a terminal, one line that moves; in a file, a line now and then.
	[ ! -t 1 ] || { every=1; form='\r\033[K    ... %d s: %s'; }
	# sleep lives on for a moment after the kill: it must not keep the caller's pipe open.
	# Nor the lock.
	while sleep "$every" >/dev/null 2>&1 9>&-; do
		# shellcheck disable=SC2059
		printf "$form" "$((SECONDS - $1))" "$(tail -n 1 "$LOG" | tr -dc '[:print:]' | cut -c 1-90)"
	done
}

# Take our own install folder out of the paths of a shell that sourced scripts/activate:
# a build must not find what it is about to replace.
drop_own_install() {
	local variable entry kept
	for variable in AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PATH PYTHONPATH; do
		[ -n "${!variable:-}" ] || continue
		kept=
		while IFS= read -r -d : entry; do
			case $entry in
			"$ROOT"/install | "$ROOT"/install/* | "$ROOT"/build/* | '') ;;
			*) kept=${kept:+$kept:}$entry ;;
			esac
		done <<<"${!variable}:"
		export "$variable=$kept"
	done
}

# One set-up or build at a time in this folder. Ends with the script, or by release.
exclusive() {
	mkdir -p "$ROOT/log"
	exec 9>"$ROOT/log/.lock"
	flock -n 9 || { note "waiting for another set-up or build in $ROOT"; flock 9; }
}
release() { exec 9>&-; }

# Put ROS 2, the venv and the built package in reach of this script, and set AS_ROOT to what
# must stand before a command that needs root: nothing for root, else sudo.
enter() {
	# shellcheck source=scripts/activate
	. "$ROOT/scripts/activate" || exit 1
	export ROS_LOG_DIR="${ROS_LOG_DIR:-$ROOT/log/ros}"
	AS_ROOT=()
	[ "$(id -u)" != 0 ] || return 0
	type sudo >/dev/null 2>&1 ||
		die "network namespaces and BPF programs need root, and there is no sudo: run this as root"
	# sudo clears the paths of libraries and modules, and may keep the wheels' mark that they
	# are set. No byte code: root's would lie in this user's folders.
	# shellcheck disable=SC2034
	AS_ROOT=(sudo -E env -u _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONDONTWRITEBYTECODE=1
		PATH="$PATH" PYTHONPATH="${PYTHONPATH:-}" LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}"
		AMENT_PREFIX_PATH="$AMENT_PREFIX_PATH" VIRTUAL_ENV="$VIRTUAL_ENV"
		ROS_LOG_DIR="$ROS_LOG_DIR" CI="${CI:-}")
}

# A sum over the content and the names of what the build reads.
build_sum() {
	(
		cd "$ROOT" || exit
		cat .venv/ipc_bypass.stamp
		find package.xml setup.py setup.cfg scripts/lib/ipc-bypass resource \
			ipc_bypass ipc_bypass_interfaces bpf config launch systemd \
			-type f ! -name '*.pyc' ! -path '*/.*' -print0 2>/dev/null |
			sort -z | xargs -0 sha256sum || true # not every folder need be there
	) | sha256sum | cut -d ' ' -f 1
}

# Build both packages into build/ and install/, where something changed since the last time.
build() {
	local sum
	exclusive
	sum=$(build_sum)
	if [ -f "$ROOT/install/local_setup.bash" ] && [ "$sum" = "$(cat "$ROOT/build/.sum" 2>/dev/null)" ]; then
		step "Build: nothing changed"
		release
		return
	fi
	step "Build: colcon build --base-paths . ipc_bypass_interfaces"
	# CMake's cache knows the folder, the Python and the ROS 2 that it was made with; and a
	# module that is gone from the source must go from the installed package.
	if ! cmp -s "$VENV/ipc_bypass.base" "$ROOT/build/.base"; then
		rm -rf "$ROOT/build" "$ROOT/install"
	else
		rm -rf "$ROOT/build/ipc_bypass" "$ROOT/install/ipc_bypass"
	fi
	mkdir -p "$ROOT/build"
	rm -f "$ROOT/build/.sum"
	cp "$VENV/ipc_bypass.base" "$ROOT/build/.base"
	(
		cd "$ROOT"
		drop_own_install
		export IPC_BYPASS_INSTALL=none
		# shellcheck source=scripts/activate
		. scripts/activate || exit 1
		quietly "colcon at work (about a minute the first time)" \
			colcon --log-base log build --base-paths . ipc_bypass_interfaces \
			--event-handlers console_direct+ console_stderr-
	) || die "the build failed; its output is above"
	echo "$sum" >"$ROOT/build/.sum"
	release
}
