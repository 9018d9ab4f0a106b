#!/usr/bin/env bash
# Runs the tests of the ARM64 kernels on an x86-64 Debian 12, in qemu's user emulation.
#
#     tests/arm/run_under_qemu.sh [FOLDER]
#
# Downloads packages of Debian and PyPI into FOLDER (0.2 GB, unpacked 0.9 GB; build/arm64 unless
# named), and installs nothing outside it; what is there already is used again. Needs Python 3.11 or
# later with pip. Nearly all of its time goes into the emulated compiler.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "${1:-$repository/build/arm64}"
folder=$(cd "${1:-$repository/build/arm64}" && pwd)
root=$folder/root
site=$folder/site
python=$folder/bin/python3

step() { printf '\n== %s\n' "$*"; }

if [ ! -e "$folder/qemu" ]; then
    step "qemu"
    (cd "$folder" && apt-get download qemu-user-static && dpkg -x qemu-user-static_*.deb "$folder/qemu.part")
    mv "$folder/qemu.part" "$folder/qemu"
fi

if [ ! -e "$root" ]; then
    step "an ARM64 Python, unpacked beside the system's packages rather than among them"
    mkdir -p "$folder"/apt/lists/partial "$folder"/apt/archives/partial
    touch "$folder/apt/status"
    private_apt=(apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64
        -o Dir::State="$folder/apt" -o Dir::State::status="$folder/apt/status"
        -o Dir::Cache="$folder/apt" -o Debug::NoLocking=1)
    "${private_apt[@]}" update
    # What python3 needs follows, since the list of what is installed is empty.
    "${private_apt[@]}" install -y --download-only --no-install-recommends python3 libstdc++6
    for package in "$folder"/apt/archives/*.deb; do
        dpkg -x "$package" "$root.part"
    done
    mv "$root.part" "$root"
fi
version=$(readlink "$root/usr/bin/python3")

if [ ! -e "$site" ]; then
    step "ARM64 wheels of what the package and its tests need"
    python3 - "$repository/pyproject.toml" > "$folder/requirements.txt" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\n")
PYTHON
    python3 -m pip install --quiet --target "$site.part" --only-binary :all: \
        --implementation cp --python-version "${version#python}" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
        -r "$folder/requirements.txt" pytest hypothesis
    mv "$site.part" "$site"
fi

step "this checkout"
rm -rf "$folder/package" "$folder/tests"
python3 -m pip install --quiet --no-deps --target "$folder/package" "$repository"
cp -r "$repository/tests" "$folder/tests"
mkdir -p "$folder/bin"
# Named as sys.executable, so that tests which start Python start the emulated one.
cat > "$python" <<SHELL
#!/bin/sh
export PYTHONHOME="$root/usr" PYTHONPATH="$folder/package:$site" RWKV_EDGE_CACHE="$folder/kernels"
exec "$folder/qemu/usr/bin/qemu-aarch64-static" -L "$root" -cpu "\${QEMU_CPU:-max}" -0 "$python" \\
    "$root/usr/bin/$version" "\$@"
SHELL
chmod +x "$python"
cd "$folder"

pytest() { "$python" -m pytest -q -p no:cacheprovider --import-mode=importlib "$@"; }

# A CPU without the extension, one with dot products, and one with i8mm too.
for expected in cortex-a72:generic neoverse-n1:dotprod max:i8mm; do
    export QEMU_CPU=${expected%:*}
    tier=$("$python" -c 'from rwkv_edge.runtime.simd.cpu import tier; print(tier())')
    step "$QEMU_CPU gets the tier $tier"
    [ "$tier" = "${expected#*:}" ]
    pytest tests/runtime/simd/test_vectors.py
done
step "kernels and whole models; those on each tier of $QEMU_CPU"
pytest tests/runtime/kernels tests/runtime/test_team.py tests/runtime/test_tiers.py
