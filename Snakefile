# The notebooks as a workflow: the series, a sweep of many runs, or tiers of the benchmark. On a cluster, or several at
# once on one machine.
#
#   pip install -c constraints.txt -e '.[benchmark]'
#   snakemake --profile cryoshift_core/course/workflow/local --cores 2 --config profile=laptop
#   snakemake --profile cryoshift_core/course/workflow/local --cores 2 --config sweep=notebooks/sweeps/methods.yaml
#   snakemake --profile cryoshift_core/course/workflow/slurm --config sweep=notebooks/sweeps/methods.yaml
#   snakemake --profile cryoshift_core/course/workflow/slurm --config tiers=core,mixes parts=30
#
# Snakemake may be installed elsewhere: notebooks run with the Python of .venv, or --config python=/path/to/python.
#
# A run is done when its folder has done.json, which is written last. A run that was killed or failed has none, so it
# runs again. Code is an input: after a change of the library or of a notebook, what was made with the old code runs
# again. A sweep is checked before anything starts. Runs share data and fits in runs/<profile>/data and fits, under locks.
#
# Tiers write to the one CSV of `evidence`, a row as soon as its fit is scored. They are no results of this state of the
# code alone: a row that is there stays, whatever code made it (its commit is beside it). Delete a row to repeat it.
import json
import shlex
import subprocess
from pathlib import Path

from snakemake.exceptions import WorkflowError

PROFILE = config.get("profile", "laptop")
PYTHON = config.get("python", next((p for p in (".venv/bin/python",) if Path(p).exists()), "python"))
SERIES = sorted(path.stem for path in Path("notebooks").glob("0[0-7]*_*.ipynb"))
LIBRARY = sorted(str(path) for folder in ("cryoshift_core", "data_fetch") for path in Path(folder).rglob("*.py"))
# Which notebook leaves the data and fits that another one uses; a notebook that finds none makes its own.
REUSES = json.loads(Path("notebooks/reuses.json").read_text())
PLAN = {"notebook": [], "folder": "runs/sweeps/none", "runs": {}}  # without a sweep

if config.get("sweep"):
    planned = subprocess.run(
        [PYTHON, "-m", "cryoshift_core", "sweep", str(config["sweep"]), "--json"], capture_output=True, text=True
    )
    if planned.returncode:
        raise WorkflowError((planned.stderr.strip().splitlines() or ["the sweep could not be read"])[-1])
    PLAN = json.loads(planned.stdout)
SWEPT = str(Path(PLAN["folder"]).absolute().relative_to(Path.cwd()))

TIERS = [name for name in str(config.get("tiers", "")).split(",") if name]
PARTS = int(config.get("parts", 10))  # jobs of each tier; those on one target stay together
SEEDS = " ".join(str(config.get("seeds", "")).replace(",", " ").split())
EVIDENCE = f"runs/evidence/{PROFILE}/workflow" + "".join(f"_{seed}" for seed in SEEDS.split())
if TIERS:
    checked = [PYTHON, "-m", "cryoshift_core", "evidence", "--list", "--profile", PROFILE, "--tier", *TIERS]
    planned = subprocess.run(checked, capture_output=True, text=True)
    if planned.returncode:
        raise WorkflowError((planned.stderr.strip().splitlines() or ["the tiers could not be read"])[-1])


def wanted():
    """What the workflow makes: the report of the tiers, the runs of the sweep, or the series."""
    if TIERS:
        return f"{EVIDENCE}/report.txt"
    if PLAN["runs"]:
        return expand("{folder}/{run}/done.json", folder=SWEPT, run=PLAN["runs"])
    return expand("runs/{profile}/{name}/done.json", profile=PROFILE, name=SERIES)


wildcard_constraints:
    profile="[a-z]+",
    name="[0-9]{2}[a-z]?_[a-z_]+",
    run="[^/]+",
    tier="[a-z]+",
    part="[0-9]+",


rule all:
    input:
        wanted(),


def earlier(wildcards):
    """Finished run to wait for."""
    names = [name for name in SERIES if name.split("_")[0] == REUSES.get(wildcards.name.split("_")[0])]
    return [f"runs/{wildcards.profile}/{name}/done.json" for name in names]


rule notebook:
    input:
        earlier,
        notebook="notebooks/{name}.ipynb",
        library=LIBRARY,
    output:
        "runs/{profile}/{name}/done.json",
    log:
        "runs/{profile}/logs/{name}.txt",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "{PYTHON} -m cryoshift_core run {input.notebook} -p profile {wildcards.profile}"
        " --out runs/{wildcards.profile}/{wildcards.name} > {log} 2>&1"


rule run:
    input:
        notebook=PLAN["notebook"],
        library=LIBRARY,
    output:
        SWEPT + "/{run}/done.json",
    log:
        SWEPT + "/logs/{run}.txt",
    params:
        folder=lambda wildcards: shlex.quote(f"{SWEPT}/{wildcards.run}"),
        given=lambda wildcards: " ".join(
            f"-p {shlex.quote(name)} {shlex.quote(str(value))}"
            for name, value in PLAN["runs"].get(wildcards.run, {}).items()
        ),
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "{PYTHON} -m cryoshift_core run {input.notebook} {params.given} --out {params.folder} > {log:q} 2>&1"


rule tier:
    output:
        touch(EVIDENCE + "/{tier}_{part}_of_" + str(PARTS)),
    log:
        EVIDENCE + "/logs/{tier}_{part}_of_" + str(PARTS) + ".txt",
    params:
        seeds=f"--seeds {SEEDS}" if SEEDS else "",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=600,
    shell:
        "{PYTHON} -m cryoshift_core evidence --profile {PROFILE} {params.seeds} --tier {wildcards.tier}"
        " --part {wildcards.part}/{PARTS} > {log} 2>&1"


rule report:
    input:
        expand(EVIDENCE + "/{tier}_{part}_of_{parts}", tier=TIERS, part=range(PARTS), parts=PARTS),
    output:
        EVIDENCE + "/report.txt",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "{PYTHON} -m cryoshift_core evidence --profile {PROFILE} --report > {output}"
