#!/bin/sh
# Replaces the containers of one service of docker-compose.yml, one after the other, by ones of the present image and
# configuration: `sh ops/compose_roll.sh node`. `docker compose up` alone recreates all of them at the same time.
#
# First a new one, until it is healthy and every shard is served; then an old one is stopped, which drains, and removed.
# Ends with 1, and with one container more than before, if a new one does not become healthy or an old one does not
# drain: what was replaced until then serves. Begin again, or go back with the old image in place of the new one.
set -eu
service=${1:?which service: node or router}
cd "$(dirname "$0")/.."

fail() {
    echo "compose_roll: $1" >&2
    exit 1
}

# A minute: longer than any takeover.
served() {
    for _ in $(seq 60); do
        docker compose run --rm --no-deps -T cli status >/dev/null 2>&1 && return
        sleep 1
    done
    fail "a shard is not served: see \`docker compose run --rm cli status\`"
}

# A stopped container counts, too: `up` would start it again.
old=$(docker compose ps --all --quiet "$service")
[ -n "$old" ] || fail "there is no container of $service"
count=$(echo "$old" | wc -l)

for container in $old; do
    docker compose up -d --no-deps --no-build --no-recreate --wait --scale "$service=$((count + 1))" "$service"
    served
    docker stop "$container"
    code=$(docker inspect --format '{{.State.ExitCode}}' "$container")
    [ "$code" = 0 ] || fail "$container did not drain: it ended with $code"
    docker rm "$container"
done
served
