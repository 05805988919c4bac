"""One training job: `python -m training.run --spec spec.json` with a TrainSpec in the file.

It reads train and dev rows by the dataset's card (never the locked rows, never the database), and leaves a sealed
bundle in the data directory and a TrainResult in the job's folder. Killed at any moment, it goes on from its last
checkpoint and ends with the same bits.
"""

import json
import platform
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from safetensors.torch import save

from moatelier.contracts import DatasetCard, SplitName, TrainResult, TrainSpec
from moatelier.errors import DataError, ResourceExhausted
from moatelier.faults import fault_point
from moatelier.ids import digest_json
from moatelier.job import Job, main
from modalities import catalogue
from modalities.bundle import CONFIG, WEIGHTS, seal
from modalities.text.model import TextBase, load_base
from modalities.text.packed import check_packed
from modalities.text.template import Encoded, answer_header, encode_row
from store import artifacts, datasets
from training import methods, preflight
from training.batches import Example
from training.checkpoint import State
from training.inputs import Source
from training.loop import Adapted, Loop, peak_bytes

_LIBRARIES = ("moatelier", "torch", "transformers", "peft", "accelerate")


def work(spec_fields: dict[str, Any], job: Job) -> dict[str, Any]:
    """Train what the spec says; returns a TrainResult as a dict.

    Raises:
        DataError: The rows cannot be trained on.
        Conflict: The job's folder holds a checkpoint of another spec or of other rows.
        Cancelled: The job was asked to stop; a checkpoint was written if training had begun.
        ResourceExhausted: Time limit or disk used up before there was anything to seal.
    """
    spec = TrainSpec.model_validate(spec_fields)
    method = methods.load(spec)
    card = datasets.get_card(spec.dataset)
    fault_point("train.start")
    rows = {split: read_rows(card, split) for split in ("train", "dev")}
    base = load_base(spec.base, spec.precision)
    header = answer_header(base.tokenizer) if hasattr(method, "activate_by") else []
    train, dev = (encode(base, split, rows[split], header) for split in ("train", "dev"))
    _preflight(base, spec, train, dev, job)

    began = time.monotonic()
    first_layer = base.first_layer_default if spec.layers == "top_third" else 0
    source = Source(base, [*train, *dev], first_layer, base.precision, _fill_progress(spec, job, began))
    adapted = Adapted(method.attach(base.model, spec, first_layer), method, base.model.get_output_embeddings())
    if header:
        method.activate_by(adapted.model, header)
    data = digest_json([[example.ids, example.trained] for example in (*train, *dev)])
    start = State(spec=spec.digest, data=data, seconds=time.monotonic() - began)
    try:
        loop = Loop(spec, adapted, source, [*train, *dev], len(train), job, start)
        state, finished = loop.run()
    finally:
        source.close()

    files = {CONFIG: method.config(adapted.model, spec.base), WEIGHTS: _safetensors(method.weights(adapted.model))}
    system = _system([row["messages"] for row in rows["train"]])
    bundle = seal(files, **_manifest_fields(base, card, spec, first_layer, system))
    return _result(state, finished, bundle, loop.epoch_steps, base.precision).model_dump(mode="json")


def read_rows(card: DatasetCard, split: SplitName) -> list[dict[str, Any]]:
    """The rows of a split, as modalities/text/data.py wrote them.

    Raises:
        DataError: The card gives no access to this split.
        IntegrityError: The artifact's bytes have changed.
    """
    info = card.splits.get(split)
    if info is None or info.artifact is None:
        if split == "dev" and (info is None or not info.rows):
            return []
        raise DataError(f"The dataset has no readable {split} rows.", where=card.name, remedy="Curate it again.")
    # Bytes: a row's text may hold characters at which text would be split.
    return [json.loads(line) for line in artifacts.get_bytes(info.artifact).split(b"\n") if line]


def encode(base: TextBase, split: SplitName, rows: list[dict[str, Any]], header: Sequence[int] = ()) -> list[Example]:
    """Rows as tokens with the mask of the trained ones, by the base's own template.

    With a header, that of the assistant's turn, the adapter acts from its last occurrence on, as it will when it is
    served, and only the last answer is trained.

    Raises:
        DataError: A row cannot be rendered or would not end in a stop token; says which.
    """
    examples = []
    for row in rows:
        name = f"{split}, row {row['row']}"
        try:
            encoded = encode_row(base.tokenizer, row["messages"], base.stop_ids)
        except DataError as error:
            raise DataError(error.what, where=f"{name}: {error.where}", remedy=error.remedy) from error
        examples.append(_example(name, encoded, list(header)))
    return examples


def _example(name: str, encoded: Encoded, header: list[int]) -> Example:
    if not header:
        return Example(name, tuple(encoded.ids), tuple(encoded.trained))
    answer = max(place for place, trained in enumerate(encoded.trained) if trained)
    while encoded.trained[answer - 1]:
        answer -= 1
    acts = answer - len(header)
    if encoded.ids[acts:answer] != header:
        raise DataError(
            "The answer does not follow the header that activates the adapter.",
            where=name,
            remedy="Use `lora`, or a base whose template opens every answer in the same way.",
        )
    trained = tuple(learn and place >= answer for place, learn in enumerate(encoded.trained))
    return Example(name, tuple(encoded.ids), trained, acts)


def _preflight(base: TextBase, spec: TrainSpec, train: list[Example], dev: list[Example], job: Job) -> None:
    limit, pad = min(spec.max_tokens, base.config.context), base.tokenizer.pad_token_id
    found = preflight.check(train, base.stop_ids, pad, limit)
    if dev:
        preflight.check(dev, base.stop_ids, pad, base.config.context)  # the limit is that of the rows to be trained on
    preflight.show(train, base.tokenizer, job.folder / "preflight.html")
    check_packed(base.model, [train[0].ids, train[-1].ids])
    job.emit("preflight", 0, **found.model_dump(mode="json"))


def _fill_progress(spec: TrainSpec, job: Job, began: float) -> Any:
    def progress(done: int, batches: int) -> None:
        seconds = time.monotonic() - began
        job.emit("frozen", done, batches=batches, seconds_left=round(seconds / max(1, done) * (batches - done), 1))
        job.check()
        if spec.max_seconds is not None and seconds > spec.max_seconds:
            raise ResourceExhausted(
                f"The time limit of {spec.max_seconds:.0f} s is used up before the first step.",
                where="max_seconds",
                remedy="Allow more time, or train on fewer rows.",
            )

    return progress


def _manifest_fields(
    base: TextBase, card: DatasetCard, spec: TrainSpec, first_layer: int, system: str
) -> dict[str, Any]:
    return {
        "base": spec.base,
        "base_digest": base.digest,
        "modality": card.modality,
        "kind": card.kind,
        "suffix": spec.suffix,
        "system": system,
        "template_digest": base.template_digest,
        "stop_ids": base.stop_ids,
        "labels": card.labels,
        "first_layer": first_layer,
        "dataset": spec.dataset,
        "licence": catalogue.get(spec.base).licence,
        "spec": spec,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
    }


def _system(conversations: list[list[dict[str, str]]]) -> str:
    """The system message that most rows start with."""
    firsts = Counter(row[0]["content"] for row in conversations if row[0]["role"] == "system")
    return firsts.most_common(1)[0][0] if firsts else ""


def _safetensors(weights: dict[str, Any]) -> bytes:
    return bytes(save(weights, metadata={"format": "pt"}))


def _result(state: State, finished: bool, bundle: str, epoch_steps: int, precision: str) -> TrainResult:
    last = state.curve[-max(1, len(state.curve) // 10) :]
    return TrainResult(
        bundle=bundle,
        steps=state.step,
        epochs=round(state.step / epoch_steps, 3),
        seconds=round(state.seconds, 2),
        train_loss=sum(loss for _, loss in last) / len(last),
        dev_loss=state.dev_curve[-1][1] if state.dev_curve else None,
        curve=state.curve,
        dev_curve=state.dev_curve,
        tokens=state.tokens,
        peak_bytes=peak_bytes(),
        stopped="finished" if finished else "out_of_time",
        precision=precision,
    )


if __name__ == "__main__":
    main("training.run", work)
