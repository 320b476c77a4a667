# Prints facts about this device as KEY=VALUE lines; changes nothing. $1: folder to deploy to; $2: Python module to look for.
# A login shell may have printed text without a line break before.
echo
echo edgeexit-facts
folder=$1
case $folder in "~") folder=$HOME ;; "~/"*) folder=$HOME/${folder#"~/"} ;; esac
case $folder in /*) ;; *) folder=$HOME/$folder ;; esac

existing_folder=$folder
while [ ! -e "$existing_folder" ]; do existing_folder=$(dirname "$existing_folder"); done

echo "machine=$(uname -m)"
echo "user=$(id -un)"
echo "uid=$(id -u)"
echo "folder=$folder"
echo "time=$(date +%s)"
[ -d "$existing_folder" ] && [ -w "$existing_folder" ] && [ -x "$existing_folder" ] && echo "writable=yes"

# Is systemd running, and may this user control it?
if [ -d /run/systemd/system ]; then
    if [ "$(id -u)" = 0 ]; then echo "systemd=root"
    elif sudo -n true </dev/null 2>/dev/null; then echo "systemd=sudo"
    fi
    XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)} systemctl --user show-environment </dev/null >/dev/null 2>&1 &&
        echo "systemd_user=yes"
fi

cuda=$(sed -n '/"cuda"/,/}/s/.*"version" *: *"\([0-9.]*\)".*/\1/p' /usr/local/cuda/version.json 2>/dev/null | head -n 1)
echo "cuda=$cuda"

# All Python interpreters of this device, the newest first. /usr/local/bin is not in the PATH of every login.
PATH=$PATH:/usr/local/bin:$HOME/.local/bin
for name in python3.13 python3.12 python3.11 python3.10 python3; do
    program=$(command -v "$name") || continue
    "$program" - "$2" 2>/dev/null <<'PROBE'
import importlib, importlib.util, struct, sys
found = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name)]
if sys.argv[1]:
    try:
        importlib.import_module(sys.argv[1])
        found.append(sys.argv[1])
    except ImportError:
        pass
fields = ["%d.%d" % sys.version_info[:2], str(8 * struct.calcsize("P")), ",".join(found), sys.executable]
print("python=" + "|".join(fields))
PROBE
done
exit 0
