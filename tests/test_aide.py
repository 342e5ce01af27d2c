"The tree of AIDE: strict reading, exact sizes, the residual connection, reflection within bounds, faults in one line."
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import encode_letters as encode
from helpers import fails

from resynth import aide as A
from resynth import aide_tree as T
from resynth.choice_tasks import ChoiceData, choice_task, make_choice
from resynth.personas import PERSONAS
from resynth.profiles import OPERATIONS, load_profile, load_prompts
from resynth.tasks import Example
from resynth.teacher import Completion, LocalTeacher

PROMPTS = load_prompts("prompts/aide.toml")
SMALL = A.AideSettings(n_attributes=1, operations=("constraint",), n_personas=1, n_demonstrations=1, rounds=2, tries=2)
NO_REFLECTION = replace(SMALL, reflect=False)


def choices(n, kind="option"):
    "A task with n seeds and two test items."
    if kind == "label": examples = [Example(f"e{i}", f"Is number {i} even?", "yes" if i % 2 == 0 else "no") for i in range(n + 2)]
    else: examples = [make_choice(f"e{i}", f"What follows {i}?", [str(i + 1), str(i + 2), str(i + 3)], 0) for i in range(n + 2)]
    task = choice_task("implicatures" if kind == "label" else "arc_challenge", PROMPTS, examples)
    return ChoiceData(task, tuple(examples[:n]), (), tuple(examples[n:]))


class Scripted:
    """Answers known beforehand, so that a tree can be counted by hand: every new text is a number never used before.
    `score` gives the score of a question; `broken` says which answers are out of form. It records what it is asked."""
    revision, n_options = "scripted", 3

    def __init__(self, score=lambda asked: 9, broken=lambda tag, asked: False):
        self.spec, self.asked, self.score, self.broken, self.numbers = load_profile("smoke").models["teacher"], [], score, broken, itertools.count(1000)

    def generate(self, prompts, sampling):
        return [[self.answer(p)] for p in prompts]

    def answer(self, asked):
        tag = re.search(r"<([^<>]+)>(\ncorrect\.)?$", asked).group(1)
        self.asked.append((tag, asked))
        if self.broken(tag, asked): return Completion("no tag here", 3, 9.0, "length")
        new = next(self.numbers)
        text = {"Topic": "numbers</Topic>\n<Attributes>counting, order, size", "Score": str(self.score(asked)), "Answer": "yes",
                "Options": f" {new}\nincorrect. {new}a\nincorrect. {new}b\n"}.get(tag, f"What follows {new}?")
        return Completion(text, 5, 9.0, "stop")

    def of(self, *tags): return [asked for tag, asked in self.asked if tag in tags]


def grow(teacher, data, settings, **kw): return T.grow_tree(teacher, PROMPTS, data, settings, PERSONAS[:6], encode, **kw)


@pytest.fixture(scope="module")
def tiny(tiny_lm):
    "The real code with tiny random weights: nothing it writes is in form, and all of it must be counted."
    return LocalTeacher(tiny_lm)


# reading

@pytest.mark.parametrize("text, reason", [
    ("<Topic>a", "no closing tag"), ("a</Topic>", "tag missing or twice"), ("<Topic>a</Topic></Topic>", "tag missing or twice"), ("<Topic>\n</Topic>", "empty"),
    ("<Topic>a <Attributes>b</Topic>", "another tag inside"), ("<topic>a</topic>", "no closing tag"), ("", "no closing tag"), ("<Topic>a</The Given Prompt></Topic>", "another tag inside")])
def test_what_is_not_in_form_is_refused(text, reason):
    with pytest.raises(A.NotInForm, match=re.escape(reason)): A.read_tags(text, ["Topic"])


@pytest.mark.parametrize("inside", ["x < y", "a -> b", "5 > 3 and 2 < 4", "f(x) <= 1", "print('<a>')", "one\ntwo"])
def test_signs_are_no_tags(inside): assert A.read_tags(f"noise <Score>{inside}</Score> noise", ["Score"])["Score"] == inside


def test_random_texts_are_never_repaired():
    rng, parts = np.random.default_rng(0), ["<Topic>", "</Topic>", "a", " ", "<Score>", "</Score>", "\n"]
    for _ in range(3000):
        text = "".join(rng.choice(parts, rng.integers(1, 8)))
        try: found = A.read_tags(text, ["Topic"])["Topic"]
        except A.NotInForm: continue
        assert text.count("<Topic>") == text.count("</Topic>") == 1 and re.sub(r"\s", "", f"<Topic>{found}</Topic>") in re.sub(r"\s", "", text) and found.strip() == found


def test_attributes_are_short_different_and_few():
    text = "<Topic>a b</Topic><Attributes>one, ONE, two words, three words here, four, five</Attributes>"
    assert A.read_extraction(text, 3) == ("a b", ("one", "two words", "four")) and A.read_extraction(text, 1)[1] == ("one",)
    with pytest.raises(A.NotInForm, match="no attribute"): A.read_extraction("<Topic>a</Topic><Attributes>far too many words, ,</Attributes>", 3)


@pytest.mark.parametrize("text", ["0", "11", "-3", "7/10", "7.0", "seven", "7 8", "07"])
def test_scores(text):
    with pytest.raises(A.NotInForm): A.read_score(f"<Score>{text}</Score>")


@pytest.mark.parametrize("lines, reason", [("correct. a\ncorrect. b\nincorrect. c", "exactly one"), ("incorrect. a\nincorrect. b\nincorrect. c", "exactly one"), ("correct. a\nincorrect. b", "wrong number"),
                                           ("correct. a\nincorrect. b\nincorrect. A", "twice"), ("Correct. a\nincorrect. b\nincorrect. c", "no option"), ("correct.\nincorrect. b\nincorrect. c", "no option")])
def test_options(lines, reason):
    with pytest.raises(A.NotInForm, match=reason): A.read_options(f"<Options>\n{lines}\n</Options>", 3)


# sizes

@pytest.mark.parametrize("n, b, K", [(1, 1, 1), (2, 2, 2), (3, 4, 3), (10, 14, 2)])
def test_size_law(n, b, K): assert sum(T.size_law(n, b, K)) == sum(n * b ** k for k in range(1, K + 1))


@pytest.mark.parametrize("n, K, changes", [(2, 2, {}), (2, 3, {}), (3, 2, dict(n_personas=0)), (2, 2, dict(n_attributes=2, operations=("constraint", "reasoning"))), (2, 1, dict(n_attributes=0, n_personas=3))])
def test_a_tree_has_exactly_the_rows_of_the_definition(n, K, changes):
    settings = replace(SMALL, depth=K, residual=1, **changes)
    tree = grow(Scripted(), choices(n), settings)
    table = T.audit_sizes(tree)
    assert list(table.kept) == list(table.promised) == T.size_law(n, settings.branches, K) and len(T.tree_rows(tree, choices(n).task)) == table.promised.sum()
    ids = {x.id for x in tree.nodes} | {s.id for s in tree.seeds}
    assert len(ids) == len(tree.nodes) + n and all(x.parent in ids and x.id.startswith(x.parent) for x in tree.nodes)


def test_every_path_differs_and_is_kept():
    tree = grow(Scripted(), choices(2), replace(NO_REFLECTION, n_attributes=3, n_personas=2, operations=OPERATIONS))
    for parent in {x.parent for x in tree.nodes}:
        own = [(x.attribute, x.persona, x.operation) for x in tree.nodes if x.parent == parent]
        assert len(own) == len(set(own)) == 11
    rows = T.tree_rows(tree, choices(2).task)
    assert ((rows.attribute == "") != (rows.persona == "")).all() and set(rows.hop) == {1, 2} and rows.parent_id.isin({*rows.row_id, "e0", "e1"}).all()


def test_a_lost_path_takes_its_subtree_along():
    broken = lambda tag, asked: tag == "Created Prompt"
    tree = grow(Scripted(broken=broken), choices(2), NO_REFLECTION)
    table = T.audit_sizes(tree)
    assert list(table["not in form"]) == [2, 2] and list(table.kept) == [2, 2] and list(table.lost_below) == [4, 0]
    assert table.promised.sum() == 12 == table.kept.sum() + table["not in form"].sum() + table.lost_below.sum()


def test_a_damaged_tree_does_not_balance():
    tree = grow(Scripted(), choices(2), NO_REFLECTION)
    fails(lambda: T.audit_sizes(replace(tree, nodes=tree.nodes[:-1])), "hop 2", "damaged")


def test_one_batch_a_step_of_a_hop():
    class Counting(Scripted):
        calls = 0
        def generate(self, prompts, sampling): self.calls += 1; return super().generate(prompts, sampling)
    few, many = Counting(), Counting()
    grow(few, choices(2), NO_REFLECTION), grow(many, choices(8), NO_REFLECTION)
    assert few.calls == many.calls == 2 * 4  # extract, two kinds of writing, label


# the residual connection

@pytest.mark.parametrize("rule, L, expected", [("as_paper", 1, {}), ("as_paper", 2, {2: 2}), ("as_paper", 3, {2: 2, 3: 4}), ("as_code", 3, {})])
def test_the_seed_is_in_exactly_the_prompts_of_the_paper(rule, L, expected):
    settings, data = replace(NO_REFLECTION, depth=3, residual=L, rule=rule), choices(1)
    tree = grow(Scripted(), data, settings)
    with_seed = {}
    for node in tree.nodes:
        if "<Similar To>" in node.prompt:
            assert f"<Similar To>{data.seeds[0].question}</Similar To>" in node.prompt and not node.persona
            with_seed[node.hop] = with_seed.get(node.hop, 0) + 1
    triplets = lambda hop: sum(1 for n in tree.nodes if n.hop == hop and n.attribute)
    assert set(with_seed) == (set(expected) if rule == "as_paper" else set())
    assert all(count == triplets(hop) for hop, count in with_seed.items())


def test_as_code_has_the_connection_for_reasoning_only():
    settings = replace(NO_REFLECTION, depth=3, residual=2, operations=OPERATIONS)
    sees = {(d, op): A.sees_seed(A.Node("x", "", "s", d, attribute="a", operation=op), replace(settings, rule="as_code")) for d in (1, 2, 3) for op in OPERATIONS}
    assert {k for k, v in sees.items() if v} == {(2, "reasoning"), (3, "reasoning")}


def test_demonstrations_are_other_seeds():
    teacher, data = Scripted(), choices(4)
    tree = grow(teacher, data, replace(NO_REFLECTION, n_demonstrations=3))
    for node in tree.nodes:
        shown = re.findall(r"<Task Example>(.+?)</Task Example>", node.prompt)
        assert len(shown) == 3 and {s.question for s in data.seeds if s.id != node.seed} == set(shown)
    assert "<Task Example>" not in "".join(n.prompt for n in grow(teacher, data, replace(NO_REFLECTION, n_demonstrations=0)).nodes)


# reflection

def test_a_row_below_the_threshold_is_written_again_at_most_the_bound():
    teacher = Scripted(score=lambda asked: 5)
    tree = grow(teacher, choices(2), replace(SMALL, depth=1, residual=1, rounds=3))
    assert {x.status for x in tree.nodes} == {"below the threshold"} and {x.rounds for x in tree.nodes} == {3}
    assert len(teacher.of("Improved Prompt")) == 3 * 4 and len(teacher.of("Score")) == 4 * 4 and not teacher.of("Options")
    assert list(T.audit_sizes(tree)["below the threshold"]) == [4]


def test_a_row_that_gets_better_stays():
    better = lambda asked: 9 if int(re.findall(r"follows (\d+)", asked)[-1]) > 1011 else 2
    tree = grow(Scripted(score=better), choices(2), replace(SMALL, depth=1, residual=1, rounds=5))
    assert all(not x.status and x.score == 9 and 0 < x.rounds <= 5 for x in tree.nodes)
    assert all(x.prompt.endswith("<Improved Prompt>") for x in tree.nodes)


def test_relevance_is_to_the_seed_and_diversity_to_the_parent():
    teacher, data = Scripted(), choices(1)
    tree = grow(teacher, data, SMALL)
    by_id = {x.id: x for x in tree.nodes}
    pairs = [re.findall(r"<The Original Prompt>(.+?)</The Original Prompt>\n<The Given Prompt>(.+?)</The Given Prompt>", asked)[-1] for asked in teacher.of("Score")]
    for original, given in pairs:
        node = next(x for x in tree.nodes if x.question == given)
        parent = data.seeds[0].question if node.hop == 1 else by_id[node.parent].question
        assert original == (parent if node.persona else data.seeds[0].question)


def test_an_unreadable_score_passes_nothing():
    tree = grow(Scripted(broken=lambda tag, asked: tag == "Score"), choices(2), replace(SMALL, depth=1, residual=1, rounds=0))
    assert {x.status for x in tree.nodes} == {"no score"}


# copies, labels, tries

def test_copies_of_seeds_and_of_examples_end():
    class Copying(Scripted):
        def answer(self, asked):
            made = super().answer(asked)
            if asked.endswith("<Rewritten Prompt>"): return replace(made, text="what follows 0")
            return replace(made, text="Which animal lays eggs?") if asked.endswith("<Created Prompt>") else made
    tree = grow(Copying(), choices(2), NO_REFLECTION)
    assert [x.status for x in tree.nodes] == ["copy", "copied from the examples"] * 2 and not len(T.tree_rows(tree, choices(2).task))


def test_a_node_without_a_label_is_no_row_and_has_children():
    tree = grow(Scripted(broken=lambda tag, asked: tag == "Options"), choices(2), NO_REFLECTION)
    table = T.audit_sizes(tree)
    assert list(table.kept) == [4, 8] and list(table.labelled) == [0, 0] and not len(T.tree_rows(tree, choices(2).task))


@pytest.mark.parametrize("kind", ["option", "label"])
def test_labels_belong_to_the_task(kind):
    data = choices(2, kind)
    rows = T.tree_rows(grow(Scripted(), data, NO_REFLECTION), data.task)
    assert set(rows.answer) <= set(data.task.labels) and len(rows) == 12
    if kind == "option": assert rows.answer.nunique() > 1  # letters are dealt, the correct one is not always A


def test_answers_out_of_form_are_asked_for_again():
    seen = {}
    def first_time(tag, asked): seen[asked] = seen.get(asked, 0) + 1; return tag == "Rewritten Prompt" and seen[asked] == 1
    teacher = Scripted(broken=first_time)
    tree = grow(teacher, choices(2), replace(NO_REFLECTION, n_personas=0))
    told = tree.told[tree.told.step == "synthesize"]
    assert not any(x.status for x in tree.nodes) and list(told.answers) == [4, 4] and list(told.in_form) == [2, 2] and not told.unread.any()


def test_an_extractor_that_never_answers_in_form():
    tree = grow(Scripted(broken=lambda tag, asked: tag == "Topic"), choices(2), SMALL)
    assert {x.status for x in tree.nodes} == {"no topic"} and list(T.audit_sizes(tree)["no topic"]) == [4, 0] and not any(x.question for x in tree.nodes)
    assert tree.told.iloc[0][["asked", "answers", "in_form", "unread"]].tolist() == [2, 4, 0, 2]


def test_random_weights_lose_everything_and_every_loss_is_counted(tiny):
    data = choices(2, "label")
    tree = T.grow_tree(tiny, PROMPTS, data, replace(SMALL, max_question_tokens=8, max_label_tokens=4), PERSONAS[:4], encode)
    table = T.audit_sizes(tree)
    assert table.kept.sum() == 0 and not len(T.tree_rows(tree, data.task)) and tree.told.in_form.sum() == 0


def test_chat_style_asks_for_the_tags(tiny):
    asked = A.ask(Scripted(), PROMPTS, "extract", [dict(n="1", examples="", question="?")], lambda t: t, 5, SMALL, 0)
    assert asked.prompts[0].endswith("<Topic>")
    for name in ("extract", "synthesize", "create", "grade_relevance", "grade_diversity", "improve_relevance", "improve_diversity", "annotate_option", "annotate_label", "annotate_number"):
        completion, chat = PROMPTS[name], PROMPTS[f"{name}_chat"]
        assert completion.form == "completion" and chat.form == "chat" and completion.stop == chat.stop and len(chat.stop) == 1 and chat.stop[0].startswith("</")
        assert re.search(r"<[A-Z][A-Za-z ]*>(\ncorrect\.)?$", completion.text) and not re.fullmatch(r"<[A-Z][A-Za-z ]*>", chat.text.rpartition("\n")[2])
        assert A.whole_answer(chat, "any\n<Topic>", Completion("x", 1, 1.0, "stop")) == "x" + chat.stop[0]


# picture

def test_the_picture_has_every_path():
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    tree = grow(Scripted(), choices(2), NO_REFLECTION)
    figure, axis = plt.subplots()
    T.draw_tree(tree, "e0", axis)
    assert len(axis.lines) == 6 and len(T.tree_lines(tree, "e0")) == 7
    plt.close(figure)


# faults

def test_wrong_seeds():
    data = choices(2)
    fails(lambda: grow(Scripted(), replace(data, seeds=()), SMALL), "no seeds")
    fails(lambda: grow(Scripted(), replace(data, seeds=(data.seeds[0], replace(data.seeds[0], id="again"))), SMALL), "seed 'again' is seed 'e0' again")
    fails(lambda: grow(Scripted(), replace(data, test=(data.seeds[1],)), SMALL), "seed 'e1' is in the test data", "refused")
    fails(lambda: grow(Scripted(), replace(data, seeds=(replace(data.seeds[0], question=" "),)), SMALL), "seed 'e0' has an empty question")


def test_a_seed_longer_than_the_context(tiny):
    data = choices(2)
    long = replace(data.seeds[0], question="word " * (tiny.spec.context + 10))
    fails(lambda: grow(tiny, replace(data, seeds=(long, data.seeds[1])), SMALL), "seed 'e0'", "context")


def test_wrong_settings():
    for changes, parts in ((dict(depth=0), ("depth = 0", "1 or more")), (dict(residual=3), ("residual = 3", "depth = 2")), (dict(residual=0), ("residual = 0",)), (dict(tries=0), ("tries = 0",)),
                           (dict(n_attributes=0, n_personas=0), ("no path",)), (dict(operations=("constraints",)), ("did you mean 'constraint'?",)), (dict(rule="as_papr"), ("did you mean 'as_paper'?",))):
        fails(lambda: A.check_aide(replace(SMALL, **changes)), *parts)


def test_no_persona_at_all():
    fails(lambda: T.grow_tree(Scripted(), PROMPTS, choices(2), SMALL, [], encode), "no persona", "n_personas = 0")
    assert T.grow_tree(Scripted(), PROMPTS, choices(2), replace(SMALL, n_personas=0), [], None).nodes


@pytest.mark.parametrize("name", ["smoke", "laptop", "laptop_real", "gpu", "paper"])
def test_settings_of_the_profiles(name):
    profile = load_profile(name)
    for task in profile.choice_tasks: assert T.aide_settings(profile, task).branches >= 2
    if name == "paper":
        s = T.aide_settings(profile, "temporal_sequences")
        assert (s.depth, s.n_attributes, s.n_personas, s.threshold, len(s.operations)) == (2, 3, 5, 5, 3) and s.branches == 14
