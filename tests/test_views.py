import dataclasses
import re

import numpy as np
import pytest

from cdjax import config, tasks
from cdjax.tasks import Example
from cdjax.views import encode, render, writer
from tests import small_tokenizer

PLAIN = config.Template(question="Q: {input}\n", answer="A: {output}\n")
CHAT = dataclasses.replace(PLAIN, chat=True)
ARROW = config.Template(question="{input} ->", answer=" {output}\n")
TASK = tasks.Task(
    name="days",
    metric="accuracy",
    grade=lambda example, answer: 0.0,
    definition="Give the plural.",
    demonstrations=(config.Demonstration("day", "days", "add s"), config.Demonstration("box", "boxes")),
    negatives=(config.Demonstration("fly", "flys", "y becomes ies"), config.Demonstration("man", "mans")),
    pool=("cat", "dog"),
    test=(Example("secret", "secrets"),),
)
TEACHER = config.Context(instruction="Say more.", shots=2, explanations=True, request="Think first.\n")
STUDENT = config.Context()
WARNED = config.Context(instruction="Task: {definition}", shots=1, negative_shots=2, explanations=True)
NUMBERED = config.Template(
    system="Definition: {instruction}\n\n",
    positive="Positive Example {number} -\n",
    negative="Negative Example {number} -\n",
    ask="Now complete the following example -\n",
    question="Input: {input}\nOutput:",
    answer=" {output}\n",
)


def encoded(template, context, inputs, *, tokenizer=None, budget=500, overflow="error", task=TASK):
    tokenizer = tokenizer or small_tokenizer.make()
    return encode.prompts(tokenizer, template, context, task, inputs, budget=budget, overflow=overflow)


@pytest.mark.parametrize(
    ("template", "context", "expected"),
    [
        (
            PLAIN,
            TEACHER,
            "Say more.\n\nQ: day\nA: days\nExplanation: add s\nQ: box\nA: boxes\nQ: cat\nThink first.\n",
        ),
        (PLAIN, STUDENT, "Q: cat\n"),
        (ARROW, config.Context(shots=1), "day -> days\ncat ->"),
        (
            CHAT,
            TEACHER,
            "<|im_start|>system\nSay more.<|im_end|>\n"
            "<|im_start|>user\nQ: day<|im_end|>\n<|im_start|>assistant\nA: days\nExplanation: add s<|im_end|>\n"
            "<|im_start|>user\nQ: box<|im_end|>\n<|im_start|>assistant\nA: boxes<|im_end|>\n"
            "<|im_start|>user\nQ: cat\nThink first.<|im_end|>\n<|im_start|>assistant\n",
        ),
        (CHAT, STUDENT, "<|im_start|>user\nQ: cat<|im_end|>\n<|im_start|>assistant\n"),
        (
            NUMBERED,
            dataclasses.replace(WARNED, instruction="{definition}", shots=2),
            "Definition: Give the plural.\n\n"
            "Positive Example 1 -\nInput: day\nOutput: days\nExplanation: add s\n"
            "Positive Example 2 -\nInput: box\nOutput: boxes\n"
            "Negative Example 1 -\nInput: fly\nOutput: flys\nExplanation: y becomes ies\n"
            "Negative Example 2 -\nInput: man\nOutput: mans\n"
            "Now complete the following example -\nInput: cat\nOutput:",
        ),
        (NUMBERED, STUDENT, "Now complete the following example -\nInput: cat\nOutput:"),
        (
            CHAT,
            WARNED,
            "<|im_start|>system\nTask: Give the plural.\n\n"
            "Negative Example 1 -\nQ: fly\nA: flys\nExplanation: y becomes ies\n"
            "Negative Example 2 -\nQ: man\nA: mans<|im_end|>\n"
            "<|im_start|>user\nQ: day<|im_end|>\n<|im_start|>assistant\nA: days\nExplanation: add s<|im_end|>\n"
            "<|im_start|>user\nQ: cat<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            dataclasses.replace(NUMBERED, chat=True),
            config.Context(negatives=TASK.negatives[1:]),
            "<|im_start|>system\nNegative Example 1 -\nInput: man\nOutput: mans<|im_end|>\n"
            "<|im_start|>user\nNow complete the following example -\nInput: cat\nOutput:<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
    ],
)
def test_the_exact_text_of_a_prompt(template, context, expected):
    (ids,) = encoded(template, context, ["cat"])[0].whole
    assert encode.decode(small_tokenizer.make(), ids) == expected


@pytest.mark.parametrize("template", [PLAIN, CHAT, ARROW])
@pytest.mark.parametrize("context", [TEACHER, STUDENT])
@pytest.mark.parametrize("inputs", [["cat"], ["cat", "car", "cargo"], ["cat", "cat"], ["dog\n", "ü", "{input}"], []])
def test_context_and_own_part_are_the_whole_text(template, context, inputs):
    """The tokens are those of the undivided text, and no longer context would do."""
    tokenizer = small_tokenizer.make()
    prompts, dropped = encoded(template, context, inputs)
    filled = render.complete(context, TASK)
    texts = [render.prompt(tokenizer, template, filled, text) for text in inputs]
    assert [list(ids) for ids in prompts.whole] == [tokenizer(text)["input_ids"] for text in texts]
    assert prompts.inputs == tuple(inputs) and dropped == []
    if inputs:
        assert min(map(len, prompts.suffixes)) == 1 or len({int(suffix[0]) for suffix in prompts.suffixes}) > 1


@pytest.mark.parametrize("adds_bos", [False, True])
def test_bos_comes_once_or_never(adds_bos):
    def count(form, context=STUDENT, **kwargs):
        tokenizer = small_tokenizer.make(adds_bos=adds_bos, **kwargs)
        prompts, _ = encoded(form, context, ["cat", "dog"], tokenizer=tokenizer)
        assert all(list(ids).index(0) == 0 for ids in prompts.whole if 0 in ids)
        return [list(ids).count(0) for ids in prompts.whole]

    assert count(PLAIN) == [int(adds_bos)] * 2
    assert count(PLAIN, config.Context(instruction="<s>Say more.")) == [1, 1]
    assert count(CHAT) == [0, 0]
    assert count(CHAT, template="{{ bos_token }}" + small_tokenizer.CHATML) == [1, 1]


@pytest.mark.parametrize("context", [TEACHER, STUDENT])
def test_the_answer_begins_where_the_prompt_ends(context):
    """Generation marker: prompt and answer are the tokens of the conversation that has the answer in it."""
    tokenizer = small_tokenizer.make()
    (prompt,) = encoded(CHAT, context, ["cat"])[0].whole
    said = render.messages(CHAT, render.complete(context, TASK), "cat") + [{"role": "assistant", "content": "cats"}]
    conversation = tokenizer.apply_chat_template(said, tokenize=True, return_dict=False)
    assert conversation[: len(prompt)] == list(prompt)
    assert encode.decode(tokenizer, np.array(conversation[len(prompt) :])) == "cats<|im_end|>\n"


def test_a_written_answer_continues_the_prompt():
    tokenizer = small_tokenizer.make()
    for template, end in ((ARROW, " days\n"), (CHAT, "A: days<|im_end|>")):
        (answer, _) = encode.answers(tokenizer, template, STUDENT, TASK, TASK.demonstrations)
        (prompt,) = encoded(template, STUDENT, ["day"])[0].whole
        assert encode.decode(tokenizer, answer) == end
        whole = encode.decode(tokenizer, np.concatenate([prompt, answer]))
        assert list(prompt) + list(answer) == tokenizer(whole)["input_ids"]


def test_an_answer_that_joins_the_prompt_is_refused():
    joined = config.Template(question="{input} -", answer="> {output}\n")
    with pytest.raises(config.UserError, match="'days' to 'day' does not begin at a token"):
        encode.answers(small_tokenizer.make(), joined, STUDENT, TASK, TASK.demonstrations)


def test_a_prompt_over_its_budget_is_named_or_dropped():
    inputs = ["cat", "much longer than a cat", "dog"]
    longest = max(len(ids) for ids in encoded(PLAIN, STUDENT, inputs)[0].whole)
    assert len(encoded(PLAIN, STUDENT, inputs, budget=longest)[0].inputs) == 3
    with pytest.raises(config.UserError, match=f"'much longer than a cat'.* {longest} tokens of {longest - 1} allowed"):
        encoded(PLAIN, STUDENT, inputs, budget=longest - 1)
    prompts, dropped = encoded(PLAIN, STUDENT, inputs, budget=longest - 1, overflow="drop")
    assert prompts.inputs == ("cat", "dog") and dropped == inputs[1:2]
    with pytest.raises(config.UserError, match="every prompt is over its budget"):
        encoded(PLAIN, STUDENT, inputs, budget=2, overflow="drop")


REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + small_tokenizer.CHATML
)
IGNORES = small_tokenizer.CHATML.replace("for m in messages %}", "for m in messages if m['role'] != 'system' %}")


@pytest.mark.parametrize("template", [REFUSES, IGNORES])
def test_an_instruction_is_never_lost(template):
    tokenizer = small_tokenizer.make(template=template)
    (ids,) = encoded(CHAT, config.Context(instruction="Say more.", shots=1), ["cat"], tokenizer=tokenizer)[0].whole
    assert encode.decode(tokenizer, ids).startswith("<|im_start|>user\nSay more.\n\nQ: day<|im_end|>\n")


@pytest.mark.parametrize("template", [None, "{{ raise_exception('not today') }}", "nothing"])
def test_a_chat_template_that_cannot_serve_is_told(template):
    tokenizer = small_tokenizer.make(template=template)
    message = {None: "has no chat template", "nothing": "leaves the instruction out"}.get(template, "not today")
    with pytest.raises(config.UserError, match=message):
        encoded(CHAT, TEACHER, ["cat"], tokenizer=tokenizer)


def test_a_task_without_a_definition_is_told():
    with pytest.raises(config.UserError, match="has {definition}, but task 'days' has none"):
        encoded(PLAIN, WARNED, ["cat"], task=dataclasses.replace(TASK, definition=""))


def test_a_complete_context_takes_nothing_more_from_the_task():
    complete = render.complete(WARNED, TASK)
    assert render.complete(complete, TASK) == complete and len(complete.negatives) == 2


def test_the_explanation_of_a_negative_demonstration_is_one():
    context = config.Context(negative_shots=1, explanations=True)
    assert render.complete(context, TASK).negatives[0].explanation
    with pytest.raises(config.UserError, match="no demonstration has an explanation"):
        render.complete(context, dataclasses.replace(TASK, negatives=TASK.negatives[1:]))


def test_a_context_from_a_file(tmp_path):
    (tmp_path / "prompt.md").write_text("Say\nmore.\n")
    context = config.Context(file=str(tmp_path / "prompt.md"))
    (ids,) = encoded(PLAIN, context, ["cat"])[0].whole
    assert encode.decode(small_tokenizer.make(), ids) == "Say\nmore.\n\nQ: cat\n"


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"shots": 3}, "context.shots is 3, but task 'days' has 2 demonstrations"),
        ({"negative_shots": 3}, "context.negative_shots is 3, but task 'days' has 2 negative demonstrations"),
        ({"file": "/none.md"}, "cannot read the context file '/none.md': No such file"),
        ({"file": "/none.md", "instruction": "x"}, "give one of them"),
        ({"demonstrations": (config.Demonstration("a", "b"),), "explanations": True}, "no demonstration has an expl"),
    ],
)
def test_a_context_that_cannot_be_built_is_told(context, message):
    with pytest.raises(config.UserError, match=message):
        encoded(PLAIN, config.Context(**context), ["cat"])


def test_a_prompt_without_any_token_is_told():
    with pytest.raises(config.UserError, match="the prompt of input '' has no token"):
        encoded(config.Template(question="{input}"), STUDENT, ["cat", ""])


@pytest.mark.parametrize("across_words", [False, True])
def test_plain_stops_are_the_tokens_that_contain_the_stop(across_words):
    tokenizer = small_tokenizer.make(across_words=across_words)
    stops = encode.stop_ids(tokenizer, PLAIN, [2])
    expected = [i for i in range(len(tokenizer)) if i == 2 or "\n" in tokenizer.decode([i])]
    assert stops.tolist() == expected and len(expected) > (3 if across_words else 1)
    assert not across_words or any(tokenizer.decode([i])[-1] == "\t" for i in expected)
    assert encode.stop_ids(tokenizer, CHAT, [2, 1]).tolist() == [1, 2]


def test_an_answer_that_nothing_ends_is_told():
    tokenizer = small_tokenizer.make()
    with pytest.raises(config.UserError, match="no token of the model contains template.stop 'zzz'"):
        encode.stop_ids(tokenizer, dataclasses.replace(PLAIN, stop="zzz"), [2])
    with pytest.raises(config.UserError, match="nothing would end an answer"):
        encode.stop_ids(tokenizer, dataclasses.replace(PLAIN, stop=""), [])


@pytest.mark.parametrize("template", [ARROW, CHAT])
def test_the_input_writer_shows_known_inputs_in_many_orders(template):
    tokenizer, cfg = small_tokenizer.make(), config.Inputs(written=30, written_shots=4)
    task = tasks.load("past_tense")

    def written(seed):
        whole = encode.input_writer(tokenizer, template, task, cfg, seed).whole
        return [encode.decode(tokenizer, ids) for ids in whole]

    known = {d.input for d in task.demonstrations}
    lists = [[word for word in re.findall(r"\w+", text.split("\n\n")[-1]) if word in known] for text in written(0)]
    assert all(len(set(shown)) == 4 for shown in lists) and len(set(map(tuple, lists))) > 25
    assert written(0) == written(0) != written(1)
    if not template.chat:
        assert written(0)[0] == "".join(f"{word} -> {task.solve(word).output}\n" for word in lists[0])


@pytest.mark.parametrize(
    ("question", "expected"), [("Verb: {input}\nPast:", "Verb: dog\nVerb:"), ("{input} ->", "dog\n")]
)
def test_without_demonstrations_the_input_writer_lists_the_pool(question, expected):
    tokenizer, task = small_tokenizer.make(), dataclasses.replace(TASK, demonstrations=(), pool=("two\nlines", "dog"))
    template = config.Template(question=question)
    (ids,) = encode.input_writer(tokenizer, template, task, config.Inputs(written=1), 0).whole
    assert encode.decode(tokenizer, ids) == expected
    with pytest.raises(config.UserError, match="has no input to show"):
        bare = dataclasses.replace(task, pool=("two\nlines",))
        encode.input_writer(tokenizer, template, bare, config.Inputs(written=1), 0)


@pytest.mark.parametrize(
    ("template", "text", "stopped", "said"),
    [
        (ARROW, "jump -> jumped", True, "jump"),
        (ARROW, "jump -> jum", False, "jump"),
        (ARROW, "jump", True, "jump"),
        (ARROW, "jum", False, ""),
        (config.Template(question="{input}: "), "jump:\tjum", False, "jump"),
        (PLAIN, "jump", True, "jump"),
        (CHAT, "jump", True, "jump"),
        (CHAT, "jum", False, ""),
        (config.Template(question="Verb: {input}\nPast:"), "jump", True, "jump"),
    ],
)
def test_a_written_input_ends_where_its_question_goes_on(template, text, stopped, said):
    assert writer.read(template, text, stopped) == said
