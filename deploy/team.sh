#!/usr/bin/env bash
# One Ray head and one MLflow server for a team, on one machine.
#
#   deploy/team.sh start|status|stop [--folder DIR] [--host ADDRESS] [--ray-port N] [--mlflow-port N] [--dashboard-port N]
#
# Both listen on 127.0.0.1 until --host names another address of this machine. Ray asks for the token in DIR/ray-token;
# MLflow asks for nothing, so whoever reaches it can read and delete every run.
#   MLFLOW_BACKEND_STORE_URI     environment variable: database instead of SQLite in DIR; kept out of the process list
#   MLFLOW_ARTIFACTS_DESTINATION environment variable: for example s3://bucket, instead of DIR/artifacts
#
# Owns: the two processes it starts, by their process groups. Never runs `ray stop`, which would end other clusters too.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -x "$root/.venv/bin/ray" ]; then PATH=$root/.venv/bin:$PATH; fi
folder=runs/team
host=127.0.0.1
ray_port=6379
mlflow_port=5000
dashboard_port=8265

fail() {
    printf 'deploy/team.sh: %s\n' "$1" >&2
    exit 1
}

verb=${1:-}
case $verb in start | stop | status) shift ;; *) fail "the first word is start, status or stop" ;; esac
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1 needs a value"
    case $1 in
        --folder) folder=$2 ;;
        --host) host=$2 ;;
        --ray-port) ray_port=$2 ;;
        --mlflow-port) mlflow_port=$2 ;;
        --dashboard-port) dashboard_port=$2 ;;
        *) fail "unknown option $1; the options are --folder, --host, --ray-port, --mlflow-port and --dashboard-port" ;;
    esac
    shift 2
done

# A process is its number and its start time: numbers are given out again.
started_at() { ps -o lstart= -p "$1" 2>/dev/null || true; }

is_running() {
    local pid
    [ -f "$folder/$1.pid" ] || return 1
    pid=$(head -n 1 "$folder/$1.pid")
    [ -n "$(started_at "$pid")" ] && [ "$(started_at "$pid")" = "$(tail -n 1 "$folder/$1.pid")" ]
}

group_is_alive() { kill -0 -- "-$1" 2>/dev/null; }

# Job control gives each server a process group of its own, whose number is the server's.
launch() {
    local name=$1
    shift
    set -m
    nohup "$@" >"$folder/$name.log" 2>&1 </dev/null &
    set +m
    printf '%s\n%s\n' $! "$(started_at $!)" >"$folder/$name.pid"
}

wait_until() {
    local name=$1 tries=0
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if ! is_running "$name" || [ "$tries" -ge 180 ]; then
            tail -n 20 "$folder/$name.log" >&2
            stop_all
            fail "$name did not start; its last words are above, all of them in $folder/$name.log"
        fi
        sleep 1
    done
}

need_free_port() { # port, option that chooses it
    python -c "import socket; socket.create_server(('$host', $1)).close()" 2>/dev/null ||
        fail "cannot listen on $host:$1: it is taken, or no address of this machine; choose another with $2"
}

start_ray() {
    # Ray's sockets need a short path. Session files and logs of the last start stay there.
    local sessions=/tmp/ftcluster-ray-$UID-$ray_port
    [ ! -e "$sessions" ] || [ -O "$sessions" ] || fail "$sessions belongs to somebody else; choose another --ray-port"
    rm -rf "$sessions"
    mkdir -m 700 "$sessions"
    # The ports not named here are free ones, so that a second cluster on this machine does not collide with the first.
    launch ray ray start --head --block --disable-usage-stats --node-ip-address "$host" --port "$ray_port" \
        --dashboard-host 127.0.0.1 --dashboard-port "$dashboard_port" --temp-dir "$sessions" \
        --ray-client-server-port $((ray_port + 1)) --dashboard-agent-listen-port 0 --min-worker-port 0 --max-worker-port 0
    wait_until ray grep -q 'Ray runtime started' "$folder/ray.log"
}

start_mlflow() {
    local names="localhost:$mlflow_port,127.0.0.1:$mlflow_port,$host:$mlflow_port"
    export MLFLOW_BACKEND_STORE_URI=${MLFLOW_BACKEND_STORE_URI:-sqlite:///$folder/mlflow.db}
    export MLFLOW_ARTIFACTS_DESTINATION=${MLFLOW_ARTIFACTS_DESTINATION:-$folder/artifacts}
    export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
    launch mlflow env -u MLFLOW_TRACKING_URI mlflow server --host "$host" --port "$mlflow_port" --workers 2 --allowed-hosts "$names"
    wait_until mlflow python -c "import urllib.request as r; r.urlopen('http://$host:$mlflow_port/health', timeout=5)"
}

# What a shell needs so that ftcluster uses both; `. DIR/environment` does it.
write_environment() {
    {
        echo "export RAY_ADDRESS=$host:$ray_port"
        echo "export RAY_AUTH_MODE=token"
        echo "export RAY_AUTH_TOKEN_PATH='$folder/ray-token'"
        # Ray replaces 127.0.0.1 by the outer address, and then listens everywhere, unless told that it has no cluster.
        [ "$host" != 127.0.0.1 ] || echo "export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0"
        echo "export MLFLOW_TRACKING_URI=http://$host:$mlflow_port"
        [ "$host" = 127.0.0.1 ] || echo "# another machine joins, with these lines and a copy of ray-token: ray start --address $host:$ray_port"
    } >"$folder/environment"
    printf '%s=%s\n' host "$host" ray_port "$ray_port" mlflow_port "$mlflow_port" dashboard_port "$dashboard_port" >"$folder/settings"
}

start_all() {
    local name
    for name in ray mlflow; do command -v "$name" >/dev/null || fail "$name is not installed; run: make install"; done
    mkdir -p "$folder/artifacts"
    folder=$(cd "$folder" && pwd)
    if is_running ray || is_running mlflow; then
        echo "already running: $(for name in ray mlflow; do is_running $name && printf '%s ' $name; done)"
        # What is missing joins what runs, where that is.
        # shellcheck source=/dev/null
        . "$folder/settings"
    fi
    if [ "$host" != 127.0.0.1 ]; then
        echo "Warning: other machines can reach $host. Ray asks for a token, MLflow for nothing, and neither encrypts." >&2
    fi
    [ -s "$folder/ray-token" ] || (umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$folder/ray-token")
    write_environment
    # shellcheck source=/dev/null
    . "$folder/environment"
    is_running ray || need_free_port "$ray_port" --ray-port
    is_running mlflow || need_free_port "$mlflow_port" --mlflow-port
    is_running ray || start_ray
    is_running mlflow || start_mlflow
    show_status
}

stop_one() {
    local pid tries=0
    if is_running "$1"; then
        pid=$(head -n 1 "$folder/$1.pid")
        kill -TERM "$pid"
        # Ray lets its tasks end for up to 30 seconds.
        while group_is_alive "$pid" && [ "$tries" -lt 80 ]; do
            tries=$((tries + 1))
            sleep 0.5
        done
        kill -KILL -- "-$pid" 2>/dev/null || true
        echo "$1 stopped"
    fi
    rm -f "$folder/$1.pid"
}

stop_all() {
    stop_one mlflow
    stop_one ray
}

show_status() {
    local name
    for name in ray mlflow; do
        is_running "$name" || fail "$name is not running; start it with: deploy/team.sh start --folder $folder"
    done
    cat "$folder/environment"
}

case $verb in
    start) start_all ;;
    stop) stop_all ;;
    status) show_status ;;
esac
