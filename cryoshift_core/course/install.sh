#!/usr/bin/env bash
# Installs Cryo-Shift into .venv from the wheels beside this file. No network is used.
set -euo pipefail
cd "$(dirname "$0")"
suitable='import platform, sys; sys.exit((f"{sys.version_info[0]}.{sys.version_info[1]}", platform.system(), platform.machine()) != ("@PYTHON@", "@SYSTEM@", "@MACHINE@"))'
python=""
for candidate in ${PYTHON:-python@PYTHON@ python3 python}; do
  if "$candidate" -c "$suitable" 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  found=$("${PYTHON:-python3}" -c 'import platform; print("Python", platform.python_version(), "on", platform.system(), platform.machine())' 2>/dev/null) || found="no Python"
  echo "This archive has wheels for Python @PYTHON@ on @SYSTEM@ @MACHINE@; found $found." \
    "Install Python @PYTHON@ and pass its path: PYTHON=/path/to/python@PYTHON@ ./install. For another kind of machine, run make bundle on one." >&2
  exit 1
fi
"$python" -m venv .venv || {
  echo "$python could not create a virtual environment; on Debian or Ubuntu: apt install python@PYTHON@-venv" >&2; exit 1; }
echo "Installing into .venv (a few minutes) ..."
.venv/bin/python -m pip --isolated install --quiet --disable-pip-version-check --no-index --find-links wheels \
  -c constraints.txt -e '.[@EXTRAS@]'
touch .venv/.ready
echo "Installed. make lab (or .venv/bin/python -m jupyter lab notebooks) opens the notebooks; site/index.html shows them as run."
