# The notebooks as a workflow, for a cluster or for several at once. It goes on after an interruption.
#   pip install -c constraints.txt -e '.[benchmark]'
#   snakemake --cores 2 --config profile=laptop
# Snakemake may be installed elsewhere: notebooks run with the papermill of .venv, or --config papermill=/path/to/papermill.
#
# A job is done when its run has finished: only then is the manifest copied to runs/<profile>/finished/NAME.json. A job that
# was killed or failed leaves no such file, so it runs again. The code is an input: after a change of the library,
# snakemake runs again what was made with the old code.
from pathlib import Path

PROFILE = config.get("profile", "laptop")
PAPERMILL = config.get("papermill", next((p for p in (".venv/bin/papermill",) if Path(p).exists()), "papermill"))
SERIES = sorted(path.stem for path in Path("notebooks").glob("0[0-6]*_*.ipynb"))
LIBRARY = sorted(str(path) for folder in ("cryoshift_core", "data_fetch") for path in Path(folder).rglob("*.py"))
# Notebooks that reuse data or trained networks of an earlier one wait for it; the others run at any time.
REUSES = {"02": "01", "03": "02", "04": "03", "05": "04"}


wildcard_constraints:
    profile="[a-z]+",
    name="[0-9]{2}b?_[a-z_]+",


rule series:
    input:
        expand("runs/{profile}/finished/{name}.json", profile=PROFILE, name=SERIES),


def earlier(wildcards):
    """Finished run to wait for."""
    names = [name for name in SERIES if name.split("_")[0] == REUSES.get(wildcards.name.split("_")[0])]
    return [f"runs/{wildcards.profile}/finished/{name}.json" for name in names]


rule notebook:
    input:
        earlier,
        notebook="notebooks/{name}.ipynb",
        library=LIBRARY,
    output:
        "runs/{profile}/finished/{name}.json",
    log:
        "runs/{profile}/finished/{name}.ipynb",
    params:
        folder=lambda wildcards: f"runs/{wildcards.profile}/{wildcards.name}",
    threads: 2
    shell:
        "{PAPERMILL} {input.notebook} {log} --kernel python3 -p profile {wildcards.profile}"
        " && cp {log} {params.folder}/{wildcards.name}.ipynb && cp {params.folder}/manifest.json {output}"
