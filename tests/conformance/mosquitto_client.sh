#!/usr/bin/env bash
# A device client made only of mosquitto_sub, mosquitto_pub, openssl, jq and coreutils. It runs no network: its samples
# have made-up confidences. It shows that docs/protocol.md is enough to write a client, and it is a client under test of
# scripts/conformance, which sets BROKER_HOST, BROKER_PORT, FLEET, SHARD, DEVICE, TRUSTED_KEY, REPORT_INTERVAL_S, RESEND_S.
#   mosquitto_client.sh FOLDER [MQTT VERSION: 5 or 311]
set -uo pipefail
folder=$1 version=${2:-5}
mkdir -p "$folder/outbox" && cd "$folder"

root=edgeexit/v1 cohort=default exits=3
bundle=$(printf 'a bundle of bash' | sha256sum | cut -c1-64)
up=$root/$FLEET/$SHARD/$DEVICE/up down=$root/$FLEET/$SHARD/$DEVICE/down
cohort_policy=$root/$FLEET/policy/$bundle/$cohort
start=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n') # never from a clock or a file
sequence=0 refused=0 rejected=null
[ -e identity.key ] || (umask 077; openssl genpkey -algorithm ed25519 -out identity.key)
key=$(openssl pkey -in identity.key -pubout -outform DER | tail -c 32 | base64)
declare -A due counts executed

read_clock() { local up _; read -r up _ < /proc/uptime; up=${up/./}; now_ms=$((10#$up * 10)); } # monotonic
uptime_s() { read_clock; printf '%d.%03d' $(((now_ms - started) / 1000)) $(((now_ms - started) % 1000)); }
read_clock
started=$now_ms
in_ms() { jq -n "$1 * 1000 | floor"; }
report_ms=$(in_ms "$REPORT_INTERVAL_S") resend_ms=$(in_ms "$RESEND_S")

publish() { # TOPIC [OPTION...]: publishes standard input
  local topic=$1; shift
  mosquitto_pub -h "$BROKER_HOST" -p "$BROKER_PORT" -V "$version" -q 1 -t "$topic" -s "$@" 2> /dev/null
}

# --- state and policies -------------------------------------------------------------------------------------------------

active() { if [ -s device.json ]; then echo device.json; elif [ -s cohort.json ]; then echo cohort.json; fi; }
load_policy() { # sets revision, and thresholds in thousandths (a threshold above every score for null)
  local file; file=$(active)
  revision=0 thresholds=(500 500)
  [ -n "$file" ] || return 0
  revision=$(jq .revision "$file")
  mapfile -t thresholds < <(jq '.policy.thresholds[] | if . == null then 1000000 else . * 1000 | ceil end' "$file")
}
state() { # true|false: the JSON of the state
  printf '{"online":%s,"start":"%s","uptime_s":%s,"bundle":"%s","cohort":"%s","revision":%s,"accepted":%s,' \
    "$1" "$start" "$(uptime_s)" "$bundle" "$cohort" "$revision" "$revision"
  printf '"policy":"confidence","agent":"bash","key":"%s","rejected":%s}' "$key" "$rejected"
}
publish_state() { state "$1" | publish "$up/state" -r; }

verified() { # TYPE < envelope: the payload, if the trusted key has signed it
  cat > envelope.json
  [ "$(jq -r 'select(type == "object") | .payloadType | strings' envelope.json 2> /dev/null)" = "$1" ] || return 1
  jq -jr '.payload | strings' envelope.json | base64 -d > payload.json 2> /dev/null || return 1
  { printf 'DSSEv1 %d %s %d ' ${#1} "$1" "$(wc -c < payload.json)"; cat payload.json; } > signed.bin
  local signature
  for signature in $(jq -r '.signatures[:16][].sig | strings' envelope.json 2> /dev/null); do
    base64 -d <<< "$signature" > signature.bin 2> /dev/null || continue
    openssl pkeyutl -verify -pubin -inkey "$TRUSTED_KEY" -rawin -in signed.bin -sigfile signature.bin > /dev/null 2>&1 &&
      cat payload.json && return 0
  done
  return 1
}

reject() { # REASON [REVISION]
  rejected=$(jq -nc --arg reason "$1" '{reason: $reason, revision: '"${2:-null}"'}')
  publish_state true
}
accept_policy() { # < envelope
  verified application/vnd.edgeexit.policy+json > new.json || { reject "no trusted key signed it"; return; }
  local reason slot held new percent salt first
  reason=$(jq -r --arg fleet "$FLEET" --arg device "$DEVICE" --arg cohort $cohort --arg bundle "$bundle" '
    def unknown($known): (keys - $known)[0];
    if unknown(["bundle", "revision", "policy", "scope", "rollout", "certificate", "max_latency"]) then
      "unknown field \(unknown(["bundle", "revision", "policy", "scope", "rollout", "certificate", "max_latency"]))"
    elif .policy.kind != "confidence" then "kind \(.policy.kind) is unknown"
    elif .policy | unknown(["kind", "temperatures", "thresholds"]) then "the policy has an unknown field"
    elif .scope.fleet != $fleet then "it is for fleet \(.scope.fleet)"
    elif (.scope.device // $device) != $device then "it is for device \(.scope.device)"
    elif (.scope.cohort // $cohort) != $cohort then "it is for cohort \(.scope.cohort)"
    elif .bundle != $bundle then "it is for bundle \(.bundle)"
    elif (.policy.temperatures | length) != '$exits' then "it is for \(.policy.temperatures | length) exits"
    else "" end' new.json 2> /dev/null) || reason="it is not a policy document"
  new=$(jq '.revision' new.json)
  [ -z "$reason" ] || { reject "$reason" "$new"; return; }
  slot=$(jq -r 'if .scope.device then "device.json" else "cohort.json" end' new.json)
  held=0
  [ ! -s "$slot" ] || held=$(jq .revision "$slot")
  if [ "$new" -lt "$held" ]; then reject "revision $new is lower than $held" "$new"; return; fi
  if [ "$new" -eq "$held" ]; then
    if [ -s "$slot" ] && [ "$(jq -cS 'del(.rollout)' new.json)" = "$(jq -cS 'del(.rollout)' "$slot")" ]; then
      rejected=null
      publish_state true
    else
      reject "revision $new with other content" "$new"
    fi
    return
  fi
  rejected=null
  percent=$(jq '.rollout.percent // 100' new.json) salt=$(jq -r '.rollout.salt // ""' new.json)
  first=$(printf '%s/%s' "$salt" "$DEVICE" | sha256sum | cut -c1-10) # 40 of the 64 bits are enough here
  if [ "$(jq -n "$((16#$first)) * 100 < $percent * 1099511627776")" = true ]; then
    sync new.json && mv new.json "$slot" && sync .
    load_policy
  fi
  publish_state true
}

# --- reports and audits -------------------------------------------------------------------------------------------------

count() { counts[$revision.$1]=$((${counts[$revision.$1]:-0} + 1)); }
infer() { # 8 samples; their confidences at the three exits are made up, in thousandths
  local n k score latency=13
  for n in 1 2 3 4 5 6 7 8; do
    for ((k = 0; k < exits; k++)); do
      score=$(((n * 117 + k * 200) % 1000))
      count reached.$k
      count score.$k.$((score / 50))
      if ((k == exits - 1 || score >= thresholds[k])); then
        count exited.$k
        count latency.$k.$latency
        break
      fi
    done
  done
}
bins() { # NAME EXIT LENGTH
  local i text=
  for ((i = 0; i < $3; i++)); do text+=,${counts[$revision.$1.$2.$i]:-0}; done
  echo "[${text:1}]"
}
report() {
  local k text=
  for ((k = 0; k < exits; k++)); do
    text+=",{\"reached\":${counts[$revision.reached.$k]:-0},\"exited\":${counts[$revision.exited.$k]:-0},"
    text+="\"scores\":$(bins score $k 20),\"latency\":$(bins latency $k 40)}"
  done
  printf '{"start":"%s","sequence":%d,"bundle":"%s","cohort":"%s","revision":%d,"uptime_s":%s,"exits":[%s],' \
    "$start" $sequence "$bundle" $cohort "$revision" "$(uptime_s)" "${text:1}"
  printf '"losses":{"refused":%d}}' $refused
}
audit() {
  local content signature
  content=$(printf '{"start":"%s","sequence":%d,"bundle":"%s","cohort":"%s","revision":%d,"samples":[{"exit":0,%s}]}' \
    "$start" $sequence "$bundle" $cohort "$revision" \
    '"top1":[3,3,5],"p1":[0.75,0.5,0.9],"p2":[0.125,0.25,0.05],"entropy":[0.8,1.2,0.4]')
  printf 'edgeexit audit v1\n%s\n%s' "$up/audit" "$content" > signed.bin
  signature=$(openssl pkeyutl -sign -inkey identity.key -rawin -in signed.bin | base64 -w0)
  printf '{"audit":%s,"key":"%s","signature":"%s"}' "$content" "$key" "$signature"
}
add() { # report|audit: adds a message to the outbox; a report replaces the older ones of its start and revision
  sequence=$((sequence + 1))
  local name=$start.$sequence.$revision.$1
  "$1" > "outbox/.new" || return
  if [ "$1" = report ]; then rm -f "outbox/$start".*."$revision.report"; fi
  mv outbox/.new "outbox/$name"
}
send() { # sends some of what was never sent, or not acknowledged in time
  local file name sent=0
  read_clock
  for file in outbox/*; do
    [ -e "$file" ] && ((sent < 4)) || break
    name=${file#outbox/}
    ((now_ms >= ${due[$name]:-0})) || continue
    publish "$up/${name##*.}" < "$file"
    read_clock
    due[$name]=$((now_ms + resend_ms)) sent=$((sent + 1))
  done
}
acknowledged() { # < ack
  local what of number file
  while read -r what of number; do
    for file in outbox/"$of.$number".*; do
      [ -e "$file" ] || continue
      case $what in
        later) due[${file#outbox/}]=$((now_ms + 600000)) ;;
        *) rm -f "$file"; unset "due[${file#outbox/}]" ;;
      esac
      [ "$what" != final ] || refused=$((refused + 1))
    done
  done < <(jq -r '
    def whole: type == "number" and . >= 0 and . == floor and (tostring | test("^[0-9]+$"));
    select(type == "object" and (.start | strings | test("^[0-9a-f]{16}$")))
    | select((.sequences // []) | type == "array" and length <= 1024 and all(whole))
    | select((.refused // []) | type == "array" and length <= 128 and all(.sequence | whole))
    | .start as $start
    | ((.sequences // [])[] | "stored \($start) \(.)"),
      ((.refused // [])[] | (if .final == false then "later" else "final" end) + " \($start) \(.sequence)")' 2> /dev/null)
}

obey() { # < envelope
  local command action id
  command=$(verified application/vnd.edgeexit.command+json) || return
  read -r action id < <(jq -r --arg fleet "$FLEET" --arg device "$DEVICE" --arg start "$start" '
    select(keys == ["action", "device", "fleet", "id", "start"])
    | select(.fleet == $fleet and .device == $device and .start == $start) | "\(.action) \(.id)"' <<< "$command")
  if [ "${action:-}" = report ] && [ -z "${executed[$id]:-}" ]; then
    executed[$id]=1
    add report
  fi
}

# --- the connection -----------------------------------------------------------------------------------------------------

load_policy
# mosquitto_sub holds the connection with the will, and connects again by itself. It also subscribes to the state of this
# device: after a new connection it receives the retained will, so this script knows that it must publish the state again.
exec 3< <(exec mosquitto_sub -h "$BROKER_HOST" -p "$BROKER_PORT" -V "$version" -i "edgeexit.$FLEET.$SHARD.$DEVICE" -q 1 \
  -k 60 -F '%t %l %X' -t "$down/ack" -t "$down/policy" -t "$down/command" -t "$cohort_policy" -t "$up/state" \
  --will-topic "$up/state" --will-payload "$(state false)" --will-qos 1 --will-retain 2> /dev/null)
subscriber=$!
finish() { publish_state false; kill "$subscriber" 2> /dev/null; exit 0; }
trap finish TERM INT
publish_state true
receive() { # TOPIC LENGTH HEX
  if (($2 == 0 || $2 > 262144)); then return; fi
  basenc --base16 -d <<< "$3" > message.bin
  case $1 in
    "$down/ack") acknowledged < message.bin ;;
    "$down/command") obey < message.bin ;;
    "$down/policy" | "$cohort_policy") accept_policy < message.bin ;;
    "$up/state") if [ "$(jq .online message.bin)" = false ]; then publish_state true; fi ;;
  esac
}
report_due=$((now_ms + report_ms))
while kill -0 "$subscriber" 2> /dev/null; do
  if read -r -t 0.1 topic length hex <&3; then
    receive "$topic" "$length" "$hex"
    while read -r -t 0 <&3 && read -r topic length hex <&3; do receive "$topic" "$length" "$hex"; done
  fi
  infer
  read_clock
  if ((now_ms >= report_due)); then
    report_due=$((now_ms + report_ms))
    add report
    ((sequence % 2)) || add audit
  fi
  send
done
