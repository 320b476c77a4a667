# Prints what this device is, as KEY=VALUE lines; writes nothing. $1: the folder to deploy to; $2: a module to look for.
folder=$1
case $folder in "~") folder=$HOME ;; "~/"*) folder=$HOME/${folder#"~/"} ;; esac
case $folder in /*) ;; *) folder=$HOME/$folder ;; esac

there=$folder
while [ ! -e "$there" ]; do there=$(dirname "$there"); done

echo "machine=$(uname -m)"
echo "user=$(id -un)"
echo "uid=$(id -u)"
echo "folder=$folder"
echo "time=$(date +%s)"
echo "free_kib=$(df -Pk "$there" | awk 'NR == 2 {print $4}')"
[ -d "$there" ] && [ -w "$there" ] && [ -x "$there" ] && echo "writable=yes"

# Is a systemd the init of this system, and may we tell it what to do?
if [ -d /run/systemd/system ]; then
    if [ "$(id -u)" = 0 ]; then echo "systemd=root"
    elif sudo -n true </dev/null 2>/dev/null; then echo "systemd=sudo"
    fi
    XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)} systemctl --user show-environment </dev/null >/dev/null 2>&1 &&
        echo "systemd_user=yes"
fi

cuda=$(sed -n '/"cuda"/,/}/s/.*"version" *: *"\([0-9.]*\)".*/\1/p' /usr/local/cuda/version.json 2>/dev/null | head -n 1)
echo "cuda=$cuda"

# Every Python of this device that might do, the newest first. /usr/local/bin is not on every login's path.
PATH=$PATH:/usr/local/bin:$HOME/.local/bin
for name in python3.13 python3.12 python3.11 python3.10 python3; do
    program=$(command -v "$name") || continue
    "$program" - "$2" 2>/dev/null <<'PROBE'
import importlib, importlib.util, struct, sys
have = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name)]
if sys.argv[1]:
    try:
        importlib.import_module(sys.argv[1])
        have.append(sys.argv[1])
    except ImportError:
        pass
words = ["%d.%d" % sys.version_info[:2], str(8 * struct.calcsize("P")), ",".join(have), sys.executable]
print("python=" + "|".join(words))
PROBE
done
exit 0
