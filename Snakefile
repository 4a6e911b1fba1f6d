# The series, and later the sweeps, for people who run them on a cluster: resume after a crash, many at once.
#   pip install -c constraints.txt -e '.[benchmark]'
#   snakemake --cores 2 --config profile=laptop
# Each rule runs one notebook through papermill; a run is done when it has written its manifest.
from pathlib import Path

PROFILE = config.get("profile", "laptop")
SERIES = sorted(path.stem for path in Path("notebooks").glob("0[0-6]_*.ipynb"))


rule series:
    input:
        expand("runs/{profile}/{name}/manifest.json", profile=PROFILE, name=SERIES),


def earlier(wildcards):
    """The run just before this one: notebooks take over data and fits from the earlier ones."""
    position = SERIES.index(wildcards.name)
    return [f"runs/{wildcards.profile}/{SERIES[position - 1]}/manifest.json"] if position else []


rule notebook:
    input:
        notebook="notebooks/{name}.ipynb",
        earlier=earlier,
    output:
        "runs/{profile}/{name}/manifest.json",
    threads: 2
    shell:
        "papermill {input.notebook} runs/{wildcards.profile}/{wildcards.name}/{wildcards.name}.ipynb"
        " --kernel python3 -p profile {wildcards.profile}"
