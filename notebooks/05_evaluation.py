# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Evaluation
#
# The only notebook that opens the answer key. Everything before it was chosen without a target label; here we learn how
# good it was.
#
# **What you will learn**
# - how to score an adaptation so that nobody can be fooled: balanced accuracy, several seeds, intervals, bounds on both sides;
# - what *gap closed* means, and when it must read "n/a";
# - confusion, calibration and A-distance: what one number hides;
# - how a checkpoint is chosen without labels, and what that costs.
#
# **What you need**: notebooks 02 to 04 explain the methods; this one runs alone and reuses their fits where they exist.
# All domains here are simulated. The target-test cubes come from other simulated tomograms than the target-train cubes.
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 12 s | 620 MB |
# | laptop | 12.2 min | 1920 MB |

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from cryoshift_core import evaluation, figures, runs, scenarios, selection, training
from cryoshift_core.scenarios import Request

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
scenario: str = "in_situ_1"  # the target domain, a name from scenarios.SCENARIOS
method: str = "cryoshift_reference"  # the method under test, a name from methods.METHODS
seeds: int = 0  # training runs per method; 0: the profile's number
seed: int = 0  # the first seed, and the one of the simulated data
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/05_evaluation

# %%
run = runs.begin("05_evaluation", globals())
figures.use_style()
p = run.profile
source = scenarios.load_or_make(Request.of(p, "source", "source", seed), run.data_folder)
validation = scenarios.load_or_make(Request.of(p, "source", "validation", seed), run.data_folder)
train, train_key = scenarios.load_or_make(Request.of(p, scenario, "train", seed), run.data_folder)
test, test_key = scenarios.load_or_make(Request.of(p, scenario, "test", seed), run.data_folder)
print(f"adapt on {len(train)} unlabelled cubes, score on {len(test)} others, from other tomograms")

# %% [markdown]
# ## The bounds
#
# - **source_only** never sees the target: the lower bound that an adaptation must beat.
# - **oracle** is trained on the *labelled* target-train cubes, with the same network and the same number of steps: the upper
#   bound. It is a yardstick, not a method; nobody has those labels in practice.
# - Between them: the method under test, and the same method without its spectrum warp.
#
# The key is opened in the next cell, once, and only for the oracle's training and for scoring.

# %%
revealed = train_key.reveal(train)
runs_of = list(range(seed, seed + (seeds or p.seeds)))
spectral = "spectrum" in training.resolve(method)[1]
contenders = {
    "source_only": ("source_only", source, ()),
    method: (method, source, ()),
    **({"without spectrum": (method, source, ("spectrum",))} if spectral else {}),
    "oracle": ("oracle", revealed, ()),
}
fits = {}
for label, (name, labelled, without) in contenders.items():
    for s in runs_of:
        fits[label, s] = training.fit(
            name, labelled, train, validation=validation, without=without, seed=s, **run.training
        )
    spent = np.mean([fits[label, s].cpu_seconds for s in runs_of])
    print(f"{label}: {len(runs_of)} runs of {p.steps} steps, {spent:.0f} CPU-seconds each")

# %% [markdown]
# ## Choosing a checkpoint without labels
#
# Each run keeps several checkpoints. `selection.choose` takes the one with the highest information-maximisation score (confident
# answers, spread over the classes) among those that still classify the *source* well and use every class. Only now may
# we ask how much that cost against the best checkpoint: the **regret**.

# %%
rows, answers = [], {}
for (label, s), fit in fits.items():
    last = max(fit.candidates)
    by_step = {}
    for step in fit.candidates:
        fit.select(step)
        by_step[step] = training.predict(fit.model, test.x, device=run.params.device)
    adapts = label not in ("source_only", "oracle")
    choice = selection.choose(fit, validation, train) if adapts else None
    step = choice.step if choice and not choice.warning else last
    score = {k: evaluation.balanced_accuracy(q, test_key) for k, q in by_step.items()}
    answers[label, s] = by_step[step]
    if choice and choice.warning:
        print(f"{label}, seed {s}: {choice.warning}")
    rows.append(
        {
            "method": label,
            "seed": s,
            **evaluation.scores(by_step[step], test_key),
            "selected_step": step,
            "balanced_accuracy_last": score[last],
            "regret": max(score.values()) - score[step],
            "fallback": bool(choice and choice.warning),
        }
    )
run.save_table(rows, "scores")
print(f"{'method':22} {'seed':>4} {'step':>5} {'selected':>9} {'last':>6} {'regret':>7}")
for r in rows:
    print(
        f"{r['method']:22} {r['seed']:4} {r['selected_step']:5} {r['balanced_accuracy']:9.3f} "
        f"{r['balanced_accuracy_last']:6.3f} {r['regret']:7.3f}"
    )

# %% [markdown]
# ## The score
#
# One dot per training seed; the bar is a 95 % t-interval over seeds. The simulated cubes are the same for all seeds, so
# the interval covers the luck of training, not the luck of drawing this target.

# %%
values = {label: [r["balanced_accuracy"] for r in rows if r["method"] == label] for label in contenders}
intervals = {label: evaluation.interval(v) for label, v in values.items()}
fig = figures.scores(values, intervals, f"balanced accuracy on target-test ({scenario})")
fig.axes[0].axvline(1 / len(p.classes), ls=":", color="0.6")
run.save_figure(fig, "scores")
plt.show()

# %%
for label in contenders:
    mean, low, high = intervals[label]
    closed, text = evaluation.gap_closed(values[label], values["source_only"], values["oracle"])
    print(f"{label:22} {mean:.3f} [{low:.3f}, {high:.3f}]   gap closed: {text}")
for label in contenders:
    if label not in ("source_only", "oracle"):
        mean, low, high = evaluation.difference(values[label], values["source_only"])
        word = (
            "better than" if low > 0 else "WORSE than (negative transfer)" if high < 0 else "not distinguishable from"
        )
        print(f"{label}: {mean:+.3f} [{low:+.3f}, {high:+.3f}], paired by seed: {word} source_only")

# %% [markdown]
# **Gap closed** is (method - source_only) / (oracle - source_only). When the interval of oracle - source_only includes 0 there
# is no measurable gap, and the honest answer is "n/a".
#
# ## What one number hides: the confusions
#
# Rows are true classes, and each sums to 100 %. A pale diagonal cell with one dark neighbour is a *pair* that the
# microscope cannot tell apart; a dark column is a class that swallows the others.

# %%
matrices = {label: sum(evaluation.confusion(answers[label, s], test_key) for s in runs_of) for label in contenders}
fig = figures.confusion(matrices, test_key.classes)
run.save_figure(fig, "confusion")
plt.show()

# %% [markdown]
# ## How sure, and how right?
#
# A point under the diagonal is overconfidence: of the cubes that the network called, say, 90 % certain, fewer were right.

# %%
tables = {label: evaluation.reliability(answers[label, runs_of[0]], test_key) for label in contenders}
fig = figures.reliability(tables)
run.save_figure(fig, "reliability")
plt.show()

# %% [markdown]
# ## Did the domains come together?
#
# The proxy A-distance between source and target features, before (`source_only`) and after. Closer features are neither
# needed nor enough for better answers: compare with the scores above.

# %%
distance, clouds = {}, {}
for label in ("source_only", method):
    model = fits[label, runs_of[0]].model.eval()
    with torch.no_grad():
        f_s = torch.cat([model.features(part) for part in validation.x[:300].split(64)])
        f_t = torch.cat([model.features(part) for part in test.x[:300].split(64)])
    distance[label] = evaluation.a_distance(f_s, f_t, seed=0)
    clouds[label] = {"source": f_s, "target": f_t}
    fig = figures.embedding(clouds[label], f"{label}: A-distance {distance[label]:.2f}")
    run.save_figure(fig, f"features_{label}")
    plt.show()

# %%
best = max(intervals[label][0] for label in contenders if label != "oracle")
if p.name != "smoke":
    assert intervals["oracle"][0] > 2 / len(p.classes), "an oracle near chance means that the target is hopeless"
    assert intervals[method][0] > intervals["source_only"][0] - 0.03, "negative transfer: see the table above"
run.report(**{f"balanced_accuracy_{label.replace(' ', '_')}": interval for label, interval in intervals.items()})
run.report(gap_closed=evaluation.gap_closed(values[method], values["source_only"], values["oracle"])[1])
run.report(regret=float(np.mean([r["regret"] for r in rows if r["method"] == method])))
run.report(**{f"a_distance_{label}": value for label, value in distance.items()})
run.finish()

# %% [markdown]
# ## What to take away
#
# - A score without a lower bound, an upper bound and an interval is an anecdote.
# - Choosing a checkpoint by its target accuracy would be peeking. The regret says what not peeking costs.
# - Calibration suffers under shift before accuracy does; confidences are to be read with the reliability plot beside them.
# - These targets are simulated. They rank methods; they do not promise an accuracy on your tomogram.
#
# ## Questions to think about
#
# 1. Why balanced accuracy? Think of `prior_3`, where one class is ten times as frequent as another.
# 2. Three seeds give wide intervals. What would 30 seeds narrow, and what would they not?
# 3. The oracle saw 1,000 labelled target cubes and source_only 2,100 simulated ones. Is the oracle really an upper bound?
