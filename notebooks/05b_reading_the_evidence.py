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
# # 05b · Reading the evidence
#
# Notebook 05 ran one experiment. One run is an anecdote. `make evidence` trains methods on scenarios with several seeds, each of which
# draws new data *and* trains anew, on the laptop profile. Its scores are committed as `notebooks/evidence/evidence.csv`, a row per run.
# Every figure below is drawn from it, or from `per_class.csv` beside it. How do you read such a table without being fooled?
#
# **What you will learn**
# - to compare methods over seeds: paired differences, intervals, and how many of them lie by chance;
# - to find where adaptation helps, where it hurts, and which part of a method did it;
# - what unseen molecules, single classes and the choice without labels cost;
# - whether an estimate without labels can tell you your own score.
#
# **What you need**: notebook 05 for the words; this one runs alone, trains nothing and opens no label; about 45 minutes to read and
# try. All targets are simulated. Words in links are explained in the [glossary](../docs/glossary.md). Where a part has not been run, a
# sentence says so.
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 10 s | 530 MB |
# | laptop | 12 s | 530 MB |

# %% tags=["hide-input"] jupyter={"source_hidden": true}
import numpy as np
from IPython.display import Markdown, display

from cryoshift_core.application import pictures
from cryoshift_core.benchmark import goals, jobs, shipped, statistics, tables
from cryoshift_core.benchmark.figures import forest
from cryoshift_core.benchmark.tables import text
from cryoshift_core.course import exercises
from cryoshift_core.course.run import begin

# %% tags=["parameters"]
profile: str = "laptop"  # only decides the folder runs/<profile>: the rows are those of the laptop profile
seed: int = 0  # of nothing: no number here is drawn at random
out_dir: str = ""  # where to write; empty: runs/<profile>/05b_reading_the_evidence

# %%
run = begin("05b_reading_the_evidence", globals())
lesson = exercises.Lesson(run, globals())
pictures.use_style()
evidence = shipped.evidence(lesson.figure)
measured = evidence.rows
# source_only stands in many rows, but is trained once per seed; a row with another rule repeats a training
trained = [row for row in measured if row["method"] != "source_only" and not row["rule"]]
hours = sum(float(row["cpu_seconds"]) for row in trained) / 3600
print(f"{len(measured)} runs of {len({r['method'] for r in measured})} methods, {hours:.1f} CPU-hours of training")
print(f"(without source_only), on {', '.join(sorted({r['device'] for r in measured}))};", end=" ")
print(f"seeds {sorted({int(r['seed']) for r in measured})}")

# %% [markdown]
# ## 1 · Who is ahead, and of whom? (14 minutes)
#
# ### How much of the gap is closed?
#
# Look for green bars that reach past the dotted goal, with an interval that stays right of 0. It does *not* show an accuracy: a small
# gap can be closed whole at a poor score, and a gap that the seeds cannot tell from 0 has no bar.
#
# **What do you expect?** On which of the three composites is the largest share of the gap closed, and on which is the score best?

# %%
evidence.draw("gap_closed", "core")
composites = evidence.of("cryoshift", jobs.COMPOSITES)
for name, g in composites.items():
    print(f"{name}: cryoshift {g.score:.3f}, gap closed {text(g.closed, '.0%', 'n/a')}, {g.seeds} seed(s)")
if closed_on := {name: g.closed.mean for name, g in composites.items() if g.closed}:
    top, best = max(closed_on, key=closed_on.get), max(composites, key=lambda name: composites[name].score.mean)
    print(f"the largest share is closed on {top}, the best score is on {best}")
    ends = [(g.closed.low, g.closed.high) for g in composites.values() if g.closed]
    overlap = max(low for low, _ in ends) <= min(high for _, high in ends)
    print(f"the intervals of the shares {'overlap: their order may be chance' if overlap else 'do not all overlap'}")
if jobs.REFERENCE_SCENARIO in closed_on:
    lesson.checkpoint("share of the gap closed on in_situ_2", closed_on[jobs.REFERENCE_SCENARIO])

# %% [markdown]
# ### Exercise 1 · Whose sign turns?
#
# Is a method ahead of another everywhere? Return, for each scenario, the mean of `a - b` over the **seeds that both have**,
# from rows as in the CSV (dictionaries of text). Rows with a part left out (`without` is not empty) do not count. Then
# look at the real file: on which composite does `cryoshift - cryoshift_reference` change its sign?

# %% tags=["given"]
lines = (
    "new,easy,1,.90,",
    "new,easy,2,.80,",
    "old,easy,1,.92,",
    "old,easy,3,.40,",
    "new,hard,1,.60,",
    "new,hard,1,.10,mada",
)
lines += ("old,hard,1,.50,", "old,hard,2,.10,", "new,hard,2,.16,")
names = ("method", "scenario", "seed", "balanced_accuracy", "without")
few_rows = [dict(zip(names, line.split(","), strict=True)) | {"rule": ""} for line in lines]


# %% tags=["exercise"]
def differences(rows, a, b):
    return None  # {scenario: mean difference}


# %% tags=["solution", "hide-cell"]
def differences(rows, a, b):
    kept = [row for row in rows if not row["without"] and not row["rule"]]
    score = {(r["method"], r["scenario"], r["seed"]): float(r["balanced_accuracy"]) for r in kept}
    found = {}
    for method, scenario, seed in score:
        if method == a and (b, scenario, seed) in score:
            found.setdefault(scenario, []).append(score[a, scenario, seed] - score[b, scenario, seed])
    return {scenario: float(np.mean(values)) for scenario, values in found.items()}


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "differences"
# cases = ['differences(few_rows, "new", "old")', 'differences(few_rows, "old", "new")']
# wrong = ['''
# def differences(rows, a, b):
#     return {"easy": 0.1, "hard": 0.1}
# ''']
#
# [[mistake]]
# code = '''
# def differences(rows, a, b):
#     def mean(method, scenario):
#         values = [float(r["balanced_accuracy"]) for r in rows if r["method"] == method and r["scenario"] == scenario and not r["without"]]
#         return float(np.mean(values))
#
#     return {scenario: mean(a, scenario) - mean(b, scenario) for scenario in dict.fromkeys(r["scenario"] for r in rows)}
# '''
# hint = 'these are two means over different seeds. A seed draws its own data, and some draws are easier: compare within a seed.'
#
# [[mistake]]
# code = '''
# def differences(rows, a, b):
#     score = {(r["method"], r["scenario"], r["seed"]): float(r["balanced_accuracy"]) for r in rows}
#     found = {}
#     for method, scenario, seed in score:
#         if method == a and (b, scenario, seed) in score:
#             found.setdefault(scenario, []).append(score[a, scenario, seed] - score[b, scenario, seed])
#     return {scenario: float(np.mean(values)) for scenario, values in found.items()}
# '''
# hint = 'rows with a part left out are other methods. They have overwritten those of the whole method: look at the column without.'
#
# [[mistake]]
# code = '''
# def differences(rows, a, b):
#     kept = [row for row in rows if not row["without"] and not row["rule"]]
#     score = {(r["method"], r["scenario"], r["seed"]): float(r["balanced_accuracy"]) for r in kept}
#     found = {}
#     for method, scenario, seed in score:
#         if method == a and (b, scenario, seed) in score:
#             found.setdefault(scenario, []).append(score[b, scenario, seed] - score[a, scenario, seed])
#     return {scenario: float(np.mean(values)) for scenario, values in found.items()}
# '''
# hint = 'that is b - a. A positive number should mean that a is ahead.'

# %%
lesson.check("differences")

# %%
if lesson.solved("differences"):
    found = differences(statistics.unchanged(measured), "cryoshift", "cryoshift_reference")  # usual amounts of data
    for name in [name for name in jobs.COMPOSITES if name in found]:
        both = [statistics.by_seed(measured, method, name) for method in ("cryoshift", "cryoshift_reference")]
        within_seeds = statistics.difference(*statistics.paired(*both))
        print(f"{name}: cryoshift less its reference {within_seeds:+.3f}; yours {found[name]:+.3f}")
    print("A sign means something only where the interval leaves out 0.")

# %% [markdown]
# ### Against every other method
#
# Each row is another method on the same network, data and steps, of those that are measured so far. Where the whole interval lies left of
# 0, cryoshift is better in that comparison, paired by seed. Many are made at once, so the printed line also counts those in which it
# stays better after p was adjusted for their number ([Holm](../docs/glossary.md#holms-adjustment)). The figure does *not* show that
# the others are poor methods: they ran at their usual settings, and only cryoshift's recipe was searched for (on other seeds, without
# target labels).
#
# **What do you expect?** Does leaving out the adversaries (`cryoshift_warps`) cost something that these seeds can show?

# %%
evidence.draw("baselines", "baselines")
others = statistics.baselines(measured)
worse = [name for name, found in others.items() if found.interval.high < 0]
print(f"on {jobs.REFERENCE_SCENARIO} the whole interval lies below 0 for {len(worse)} of {len(others)} methods;")
sure = [name for name, found in others.items() if found.interval.mean < 0 and found.p < 0.05]
print(f"with p adjusted for all of them, {len(sure)} are worse than cryoshift: {', '.join(sure) or 'none'}")
if "cryoshift_warps" in others:
    plain = others["cryoshift_warps"].interval
    verdict = "costs accuracy" if plain.high < 0 else "gains accuracy" if plain.low > 0 else "shows no difference"
    print(f"leaving out the adversaries {verdict} with these seeds: {plain:+.3f}")

# %% [markdown]
# ### The rival that nobody had asked
#
# All of these are networks. [Template matching](../docs/glossary.md#template-matching) is not: it compares each subtomogram with images of
# the same structures in 2,000 poses, and trains nothing. This project had 681 runs of networks before anybody asked it. Where two classes
# are molecules, `classify` now answers by both (`network_and_templates`).
#
# **What do you expect?** Are templates ahead of a network that was adapted? Of one that had 1,000 labels? On which of the three targets not,
# and what becomes of both together there?

# %%
for name in jobs.COMPOSITES:
    for rival in (jobs.TEMPLATES, jobs.BOTH):
        found = statistics.by_seed(measured, rival, name)
        for method in ("cryoshift", "oracle"):
            ahead, of = statistics.paired(found, statistics.by_seed(measured, method, name))
            if ahead:
                print(f"{name}: {rival} - {method} {statistics.difference(ahead, of):+.3f} ({len(ahead)} seeds)")

# %% [markdown]
# **Recap**
# - Compare within a seed: a seed draws its own data, and some draws are easier.
# - A share of the gap and a score are two different things.
# - A method that was searched for has an advantage over one at its usual settings; and ask the classical rival, too.
#
# ## 2 · Where does it help, and does it ever hurt? (13 minutes)

# %% [markdown]
# ### One factor at a time
#
# Which part of the shift costs accuracy at all, and which of it comes back? A grey bar is the gap; look for green dots at its
# right end. Where there is hardly a bar, there is nothing to adapt to, and the only question is whether adaptation does harm. The
# intervals here are not paired: they overlap more than the differences do. A hollow marker is a single seed, which has no interval.
# One or two seeds rarely tell a gap from 0: the share closed is then n/a.

# %%
evidence.draw("factors", "factors")
found = evidence.of("cryoshift", jobs.FACTORS)
for name, g in found.items():
    print(f"{name:13} cryoshift {g.score:.3f}, gap closed {text(g.closed, '.0%', 'n/a')}")
pooled, with_gap = statistics.factors_closed(measured)
if pooled:
    print(f"over the {len(with_gap)} of {len(found)} factors with a measurable gap, sum over sum: {pooled:.0%}")

# %% [markdown]
# ### Does adaptation ever hurt?
#
# [Negative transfer](../docs/glossary.md#negative-transfer) is the failure that a user cannot see. A purple row is a method whose
# own 95 % interval lies below source_only. Among many rows one is purple by chance now and then, so the line below counts only those
# that stay significant after p was adjusted for all of them (Holm). A grey row proves nothing either way, a hollow marker is a single
# seed and can have no colour, and a few seeds can only show large harm.
#
# **What do you expect?** How many rows are purple, and how many would be by chance (exercise 2)?

# %%
compared = statistics.transfer(measured)
if compared:
    fig = forest(compared, "Every method compared with source_only", "balanced accuracy: method - source_only")
    lesson.figure(fig, "evidence_transfer")
    harmed = [name for name, found in compared.items() if found.interval.mean < 0 and found.p < 0.05]
    purple = [name for name, found in compared.items() if found.interval.high < 0]
    several = sum(found.seeds > 1 for found in compared.values())  # one seed has no interval
    print(f"purple: {len(purple)} of {several} rows with an interval ({'; '.join(purple) or 'none'});")
    print(f"{0.025 * several:.1f} would be by chance if nothing helped or harmed")
    print(f"negative transfer in {len(harmed)} of {len(compared)}, with p adjusted: {'; '.join(harmed) or 'none'}")
else:
    evidence.missing("Negative transfer", "core")

# %% [markdown]
# ### Exercise 2 · Harm by chance
#
# Suppose that 26 pairs of method and scenario are compared with source_only, each with a 95 % interval, and that no method does
# anything. How many intervals are expected to lie wholly *below* 0? Write it for any number of comparisons.


# %% tags=["exercise"]
def harms_by_chance(comparisons, level=0.95):
    return None


# %% tags=["solution", "hide-cell"]
def harms_by_chance(comparisons, level=0.95):
    return comparisons * (1 - level) / 2


print(f"26 comparisons: {harms_by_chance(26):.2f} harms by chance alone")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "harms_by_chance"
# cases = ['harms_by_chance(26)', 'harms_by_chance(100)', 'harms_by_chance(26, 0.8)']
# wrong = ['''
# def harms_by_chance(comparisons, level=0.95):
#     return 0.65
# ''']
#
# [[mistake]]
# code = '''
# def harms_by_chance(comparisons, level=0.95):
#     return comparisons * (1 - level)
# '''
# hint = 'a 95 % interval misses on two sides. Half of its misses look like gains.'
#
# [[mistake]]
# code = '''
# def harms_by_chance(comparisons, level=0.95):
#     return (1 - level) / 2
# '''
# hint = 'that is the chance for one comparison. Many are made.'
#
# [[mistake]]
# code = '''
# def harms_by_chance(comparisons, level=0.95):
#     return 1 - (1 - (1 - level) / 2) ** comparisons
# '''
# hint = 'that is the probability of at least one harm. The question asks for the expected number.'
#
# [[mistake]]
# code = '''
# def harms_by_chance(comparisons, level=0.95):
#     return 0.0
# '''
# hint = 'each of the intervals misses now and then, even if there is nothing to find.'

# %%
lesson.check("harms_by_chance")

# %% [markdown]
# **Recap**
# - Where a factor costs no accuracy there is nothing to adapt to, and adaptation can only do harm.
# - Among many intervals some lie below 0 by chance: adjust p for their number.
# - A grey row proves neither help nor harm.
#
# ## 3 · Which part did it, and for which class? (9 minutes)
#
# The recipe with one part left out, warp by warp and rule by rule, where it is measured. A purple row is a part that is needed. A
# grey row with a narrow interval around 0 could go; one with a wide interval says nothing. A rule of choosing changes no training: a
# value that most of the rules share is the difference of two trainings of the same seeds, and the last printed line says how large
# that gets. The figure does *not* show what two parts do together: each may cover for the other.
#
# **What do you expect?** Which part is needed most: a warp, or the adversaries (`mada`)?

# %%
evidence.draw("ablation", "ablation")
left_out = statistics.ablation(measured)
if left_out:
    worst = min(left_out, key=lambda name: left_out[name].interval.mean)
    needed = [name for name, found in left_out.items() if found.interval.high < 0]
    print(f"lowest mean: {worst}, {left_out[worst].interval:+.3f};", end=" ")
    print(f"whole interval below 0: {', '.join(needed) or 'none'}")
    wide = [name for name, found in left_out.items() if found.interval.high - found.interval.low > 0.1]
    print(f"intervals wider than 0.1, which could hide a loss that matters: {len(wide)} of {len(left_out)}")
    print(f"one seed trained twice, on different machines: up to {statistics.retrained(measured):.3f} apart")

# %% [markdown]
# ### Class by class
#
# Look along a row for dark cells: a mean may hide a molecule that is never found. Look down a column for molecules that even the
# oracle finds seldom: there information is missing, or labels are few. The figure shows one scenario; the last printed lines name the
# classes of all three composites that `cryoshift` finds less often than source_only does, with p adjusted for all of them.

# %%
evidence.draw("recall", "core")
for name, by_class in statistics.recalls(evidence.per_class).items():
    if name in jobs.CORE:
        lowest = min(by_class.values())
        worst = " and ".join(one for one, recall in by_class.items() if recall < lowest + 0.005)
        print(f"{name}: the lowest recall on {jobs.REFERENCE_SCENARIO} is {lowest:.0%}, of {worst}")
lost = [h for h in statistics.harm(evidence.per_class) if h.difference.mean < 0 and h.p < 0.05]
print(f"classes that adaptation harms: {len(lost)}")
for h in lost:
    print(f"{h.name} on {h.scenario}: recall {h.before:.2f} -> {h.after:.2f} (adjusted p {statistics.p_text(h.p)})")

# %% [markdown]
# ### What does choosing without labels cost?
#
# The purple line from the chosen checkpoint to the best one is the regret. The printed lines compare the choice with the
# *last* checkpoint, which costs nothing to choose. It does *not* show a choice between methods; only where its adversaries change the
# class fractions is `cryoshift` replaced. A choice that fell back to source_only counts with source_only's score.

# %%
evidence.draw("regret", "core")
for name, g in composites.items():
    last = statistics.by_seed(measured, "cryoshift", name, "balanced_accuracy_last")
    gain = g.score.mean - np.mean(list(last.values()))
    print(f"{name}: regret {g.regret:.3f}; against the last checkpoint the choice is {gain:+.3f}")

# %% [markdown]
# ### One number at a time
#
# One parameter of the reference scenario is swept, where that is measured. Look where the green line leaves the black one (the
# oracle), and where both fall to guessing. The oracle learns from the target's own subtomograms, of which few are rare, while
# simulated ones can be had in equal numbers. A panel of unlabelled subtomograms says how many are needed. A dot is a seed, and with
# one seed a difference of 0.02 is nothing.

# %%
evidence.draw("curves", "curves")
for parameter, by_method in statistics.curves(measured).items():
    line = {v: np.mean(scores) for v, scores in by_method["cryoshift"].items()}
    low, high = min(line, key=line.get), max(line, key=line.get)
    print(f"{jobs.LABELS[parameter]}: cryoshift from {line[low]:.2f} (at {low:g}) to {line[high]:.2f} (at {high:g})")

# %% [markdown]
# **Recap**
# - A part whose absence costs nothing may still be needed: another part may cover for it.
# - A mean over classes may hide a molecule that is never found.
# - The regret compares checkpoints of one method, and no methods with each other.
#
# ## 4 · What can a user know? (9 minutes)

# %% [markdown]
# ### An unseen molecule
#
# A tenth of the subtomograms is a molecule that nobody simulated: each of the seven classes was left out in turn, and ribosomal subunits
# were tried beside whole ribosomes. Two kinds of threshold: **the user's**, which the detector sets itself for each class, and one for
# all classes at which exactly 5 % of the known subtomograms are rejected, which only somebody with the labels can set. The columns of
# the user's thresholds say what to expect in practice; the last column says how well the score alone separates the two kinds.

# %%
rejected = tables.unseen_tables(measured)
display(Markdown(rejected)) if rejected else evidence.missing("An unseen molecule", "rotation")

# %% [markdown]
# ### Can one know the score without any label?
#
# Spike-in validation puts known molecules into particle-free boxes of the *target* and scores the model on them: an estimate that
# a user can have, too (notebook 06). Above the diagonal the estimate is too low, below it too high. Spiked molecules are simulated
# with our own structures, and share whatever is wrong with our simulation. A report therefore states a range, from this estimate
# to the mean confidence and a margin beyond both.
#
# **What do you expect?** It tells easy targets from hard ones. Does it also rank the adapting methods of one target (exercise 3)?

# %%
spiked = statistics.spike_ins(measured)
if not spiked:
    evidence.missing("Spike-in estimates", "core")
else:
    evidence.draw("spike", "core")
    every = statistics.estimate_errors(spiked)
    print(f"{every}; bias is estimate - true score")
    ranks = statistics.estimate_errors([one for one in spiked if one.method != "source_only"])
    weakly = "ranks them weakly" if ranks.within > 0.3 else "does not rank them"
    verdict = "ranks them" if ranks.within > 0.7 else weakly
    print(f"adapting methods alone: between targets {ranks.correlation:.2f},", end=" ")
    print(f"within targets {ranks.within:.2f}: it {verdict}")
    print(
        f"a report states a range, or unknown ({every.unknown:.0%}); it holds {every.in_stated:.0%} of the true scores"
    )

# %% [markdown]
# ### Exercise 3 · Does an estimate rank the methods of one target?
#
# An estimate may correlate with the truth only because some targets are easy and others hard. To ask whether it ranks the
# methods *of one target*, subtract each target's mean from both, and correlate what is left over all targets. Write it.

# %% tags=["given"]
where = np.repeat(["easy", "middle", "hard"], 3)
truth = np.array([0.90, 0.88, 0.92, 0.70, 0.74, 0.66, 0.40, 0.42, 0.35])
guesses = np.array([0.95, 0.96, 0.94, 0.80, 0.76, 0.81, 0.55, 0.52, 0.56])


# %% tags=["exercise"]
def within(estimate, true, target):
    return None  # arrays of equal length; target holds names


# %% tags=["solution", "hide-cell"]
def within(estimate, true, target):
    def left(values):
        return np.concatenate([values[target == name] - values[target == name].mean() for name in np.unique(target)])

    return float(np.corrcoef(left(estimate), left(true))[0, 1])


print(f"between: {np.corrcoef(guesses, truth)[0, 1]:.2f}, within targets: {within(guesses, truth, where):.2f}")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "within"
# cases = ['within(guesses, truth, where)', 'within(truth, truth, where)']
# wrong = ['''
# def within(estimate, true, target):
#     return 0.0
# ''']
#
# [[mistake]]
# code = '''
# def within(estimate, true, target):
#     return float(np.corrcoef(estimate, true)[0, 1])
# '''
# hint = 'that is the correlation over everything. It is high because easy targets have high estimates and high scores.'
#
# [[mistake]]
# code = '''
# def within(estimate, true, target):
#     each = [np.corrcoef(estimate[target == name], true[target == name])[0, 1] for name in np.unique(target)]
#     return float(np.mean(each))
# '''
# hint = 'a correlation within one target rests on three points, and a mean of such ones weighs a target without spread like any other. Pool what is left of all targets.'
#
# [[mistake]]
# code = '''
# def within(estimate, true, target):
#     means = [(estimate[target == name].mean(), true[target == name].mean()) for name in np.unique(target)]
#     return float(np.corrcoef(np.array(means).T)[0, 1])
# '''
# hint = 'that correlates the means of the targets: exactly what should be taken out.'

# %%
lesson.check("within")

# %% [markdown]
# ### Aims, reached and not
#
# What this project set out to reach, before the measurement, and what came out. "So far" means that some of the planned runs are missing.

# %%
verdicts = goals.verdicts(measured)
display(Markdown(tables.table("goal | result | outcome", (v.line for v in verdicts))))
counted = {word: sum(v.outcome == word for v in verdicts) for word in ("reached", "not reached", "not measured")}
print(", ".join(f"{n} {word}" for word, n in counted.items()))

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %% tags=["hide-input"] jupyter={"source_hidden": true}
run.report(evidence_runs=len(measured), **{f"aims_{word.replace(' ', '_')}": n for word, n in counted.items()})
manifest = run.finish()

# %% [markdown]
# **Recap**
# - Recall, calibration and unseen molecules belong beside the score.
# - Estimates without labels tell easy targets from hard ones better than they rank methods.
# - An aim that was missed belongs in the table beside those that were reached.
#
# ## What to take away
#
# - Many seeds, paired, with p adjusted for the number of comparisons.
# - Ask of each figure what it does *not* show, before you quote it.
# - These targets are simulated. They compare methods; they do not promise an accuracy on your tomogram. Spike-ins come nearer.
#
# ## Questions to think about
#
# 1. A few seeds give wide intervals. What would ten times as many narrow, and what would they not?
# 2. Two methods have overlapping intervals. Can the paired difference still leave out 0?
# 3. A reviewer asks for a scenario that is not in the table. Which numbers would you write down before you run it?
