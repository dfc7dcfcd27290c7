#!/bin/sh
# Reloads a gateway every 100 ms, by HUP and by the admin API in turn, while wrk loads it, and fails if one request did.
#
#   PORTCULLIS=target/release/portcullis loadtest/reload-soak.sh [SECONDS]     600 by default
#
# Needs wrk, nginx (the backend) and curl. Everything listens on loopback and lives in a temporary folder.
set -eu

seconds=${1:-600}
portcullis=${PORTCULLIS:-target/release/portcullis}
connections=${CONNECTIONS:-32}
port=${PORT:-18480} backend=${BACKEND_PORT:-18481} admin=${ADMIN_PORT:-18482}

for tool in wrk nginx curl; do
    command -v "$tool" >/dev/null || { echo "$0 needs $tool: apt-get install $tool" >&2; exit 2; }
done
test -x "$portcullis" || { echo "$portcullis is not there: make release, or set PORTCULLIS" >&2; exit 2; }

folder=$(mktemp -d)
gateway='' nginx='' load=''
finish() {
    for pid in $load $gateway $nginx; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM

cat >"$folder/nginx.conf" <<END
daemon off; master_process off; pid $folder/nginx.pid; error_log $folder/nginx.log;
events { worker_connections 4096; }
http {
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path $folder/body; proxy_temp_path $folder/proxy; fastcgi_temp_path $folder/fastcgi;
    uwsgi_temp_path $folder/uwsgi; scgi_temp_path $folder/scgi;
    server { listen 127.0.0.1:$backend; location / { return 200 "fine"; } }
}
END

# Two files that differ in the listener's limits, the service, a route's policies and the routes there are.
write() { # letter, fields, keep-alive, rate
    {
        cat <<END
listeners: [ { bind: "127.0.0.1:$port", limits: { headers: $2 } } ]
admin: { bind: "127.0.0.1:$admin" }
access_log: { output: false }
services:
  backend: { endpoints: [ "127.0.0.1:$backend" ], keep_alive: $3 }
routes:
  - path: /always
    service: backend
    policies:
      rate_limit: { limit: $4/s, by: route }
      response_headers: { set: { X-Generation: $1 } }
END
        for number in $(seq 100); do
            echo "  - { path: /$1/$number/*, service: backend }"
        done
    } >"$folder/$1.yaml"
}
write a 50 64 90000000
write b 60 128 80000000
use() { cp "$folder/$1.yaml" "$folder/next.yaml"; mv "$folder/next.yaml" "$folder/gateway.yaml"; }
use a

nginx -p "$folder" -c "$folder/nginx.conf" -e "$folder/nginx.log" &
nginx=$!
"$portcullis" run -c "$folder/gateway.yaml" 2>"$folder/gateway.log" &
gateway=$!
tries=0
until curl -sf -o "$folder/answer" "http://127.0.0.1:$port/always"; do
    tries=$((tries + 1))
    test "$tries" -lt 100 || { echo "the gateway does not answer:" >&2; cat "$folder/gateway.log" >&2; exit 1; }
    sleep 0.1
done

wrk -t2 -c"$connections" -d"${seconds}s" --timeout 10s --latency "http://127.0.0.1:$port/always" >"$folder/wrk.txt" &
load=$!
reloads=0 refused=0
while kill -0 "$load" 2>/dev/null; do
    use b
    kill -HUP "$gateway"
    sleep 0.1
    use a
    status=$(curl -s -o "$folder/answer" -w '%{http_code}' -X POST "http://127.0.0.1:$admin/reload" || true)
    test "$status" = 200 || { refused=$((refused + 1)); echo "reload answered $status: $(cat "$folder/answer")" >&2; }
    reloads=$((reloads + 2))
    sleep 0.1
done
wait "$load" || { echo "wrk failed" >&2; exit 1; }
load=''

cat "$folder/wrk.txt"
applied=$(curl -s "http://127.0.0.1:$admin/metrics" | sed -n 's/^portcullis_reloads_total{result="applied"} //p')
memory=$(sed -n 's/^VmRSS:[[:space:]]*//p' "/proc/$gateway/status")
echo "$reloads reloads asked for, $applied generations applied, $refused refused; resident memory at the end: $memory"
if grep -E 'Socket errors|Non-2xx' "$folder/wrk.txt" || test "$refused" -gt 0; then
    echo "FAILED: not every request succeeded" >&2
    exit 1
fi
echo "OK: not one request failed"
