"""Text, Retrieval and Image: small data in exactly the public formats, conventions, and every damage named."""

import json
import pickle

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image as Pictures
from pyarrow import parquet

from lra.data.characters import Bytes, Characters, collect_texts, count_characters, vocabulary
from lra.data.tables import hub_rows
from lra.models.build import build_model
from lra.recipes.catalog import create_recipe
from lra.tasks import create_task
from lra.tasks.image import Image, grey, read_batch
from lra.tasks.retrieval import FILES, Retrieval
from lra.tasks.text import Text

REVIEWS = [
    ('He said "great"\tfilm<br />Ünïcode 電影 ' + "a" * 20, 1),
    ("Bad, BAD film.\r\n" + "a b" * 9, 0),
    ("ok " * 7, 1),
]


def load(task, tmp_path):
    task.prepare(tmp_path / "data", quiet=True)
    return task.load(tmp_path / "data")


def make_folders(root):
    for split in ("train", "test"):
        for index, (text, label) in enumerate(REVIEWS):
            folder = root / "aclImdb" / split / ("neg", "pos")[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index}_7.txt").write_bytes(text.encode())


def make_parquet(root):
    (root / "plain_text").mkdir(parents=True)
    texts, labels = zip(*sorted(REVIEWS, key=lambda row: row[1]), strict=True)
    for split in ("train", "test"):
        table = pyarrow.table({"text": list(texts), "label": list(labels)})
        parquet.write_table(table, root / "plain_text" / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("make", [make_folders, make_parquet])
def test_reviews_are_read_untouched(tmp_path, make):
    make(tmp_path / "source")
    data = load(Text(source=str(tmp_path / "source")), tmp_path)
    stored = data.splits["train"].sequences
    texts = [stored[index].tobytes().decode() for index in range(3)]
    expected = sorted(REVIEWS, key=lambda row: row[1])
    assert sorted(texts) == sorted(text for text, _ in expected)
    assert stored.labels.tolist() == [0, 1, 1]
    assert data.splits["val"] is data.splits["test"]
    assert "validation is the test set" in data.origin
    assert data.baselines["test"]["majority class"] == pytest.approx(2 / 3)
    batch = data.collate([data.splits["train"][index] for index in range(3)])
    assert batch["attention_mask"].sum(1).tolist() == [len(text) + 1 for text in texts]
    assert (batch["input_ids"] == 2).sum(1).tolist() == [1, 1, 1]


def test_characters_are_numbered_by_how_often_they_were_seen():
    counts = count_characters(collect_texts([("aaab電zz", 0), ("bba電", 1)]), 5)
    assert counts == {"a": 4, "b": 3, "電": 2}
    known = vocabulary(counts, 3)
    assert known == "ab"
    encode = Characters(known, max_length=5)
    assert encode.vocab_size == 5
    assert encode(np.frombuffer("b電a".encode(), np.uint8)).tolist() == [4, 1, 3, 2]
    assert encode(np.frombuffer(("電" * 40).encode(), np.uint8)).tolist() == [1, 1, 1, 1, 2]
    assert encode(np.frombuffer(b"", np.uint8)).tolist() == [2]
    assert Bytes(3)(np.frombuffer("a電".encode(), np.uint8)).tolist() == [98, 0xE9 + 1, 0x9B + 1]


def test_bytes_are_padded_to_the_full_length(tmp_path):
    make_folders(tmp_path / "source")
    data = load(Text(source=str(tmp_path / "source"), convention="jax", max_length=30), tmp_path)
    batch = data.collate([data.splits["test"][0]])
    assert batch["input_ids"].shape == (1, 30)
    assert data.vocab_size == 257
    assert data.eos_id is None


def test_missing_and_wrong_reviews_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"no train/neg in .*aclImdb.*train\*.parquet"):
        load(Text(source=str(tmp_path)), tmp_path)
    make_parquet(tmp_path / "source")
    path = tmp_path / "source" / "plain_text" / "train-00000-of-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    with pytest.raises(ValueError, match=r"no readable parquet file .*fresh copy"):
        load(Text(source=str(tmp_path / "source")), tmp_path)
    parquet.write_table(pyarrow.table({"review": ["x"], "label": [0]}), path)
    with pytest.raises(ValueError, match=r"columns review, label; wanted text, label"):
        load(Text(source=str(tmp_path / "source")), tmp_path)


def test_no_network_is_rejected_with_the_way_out(monkeypatch):
    import datasets

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ValueError, match=r"prepare text: .*ConnectionError: no route.*prepare text source=FOLDER"):
        next(hub_rows("text", "some/name", "train", ("text", "label")))


@pytest.mark.parametrize("task", [Text(), Image(), Retrieval(source="hub:some/name")])
def test_every_public_task_says_what_to_do_offline(tmp_path, monkeypatch, task):
    import datasets

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ValueError, match=rf"ConnectionError: no route.*prepare {task.name} source=FOLDER"):
        task.prepare(tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_public_copies_are_read_through_datasets(tmp_path, monkeypatch):
    import datasets

    asked = []

    def load_dataset(name: str, config: str | None, split: str) -> datasets.Dataset:
        asked.append((name, split))
        if name == "uoft-cs/cifar10":
            pictures = [Pictures.fromarray(picture) for picture in make_colours(20)[0]]
            features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
            return datasets.Dataset.from_dict({"img": pictures, "label": list(range(10)) * 2}, features)
        if name == "stanfordnlp/imdb":
            return datasets.Dataset.from_list([{"text": text, "label": label} for text, label in REVIEWS])
        rows = [{"label": int(float(row[0])), "text1": row[3], "text2": row[4]} for row in PAIRS]
        return datasets.Dataset.from_list(rows if name == "some/pairs" else [rows[0] | {"label": 2}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    sizes = [
        len(load(task, tmp_path).splits["train"]) for task in (Text(), Image(), Retrieval(source="hub:some/pairs"))
    ]
    assert sizes == [3, 18, 2]
    assert ("some/pairs", "validation") in asked
    with pytest.raises(ValueError, match=r"row 0 of train: label 2; wanted label 0 or 1 and two texts"):
        load(Retrieval(source="hub:other/pairs"), tmp_path)
    with pytest.raises(ValueError, match=r"stanfordnlp/imdb with columns text, label; wanted label, text1, text2"):
        load(Retrieval(source="hub:stanfordnlp/imdb"), tmp_path)
    with pytest.raises(ValueError, match=r"prepare retrieval: received no source; wanted a folder, or hub:OWNER/NAME"):
        load(Retrieval(), tmp_path)


PAIRS = [("1.0", "P1", "P2", 'a "stray quote', "second 'text'"), ("0.0", "P3", "P4", "naïve", "x" * 50)]


def make_pairs(root, layout="tsv_data"):
    (root / layout).mkdir(parents=True)
    for name in FILES.values():
        (root / layout / name).write_text("".join("\t".join(row) + "\n" for row in PAIRS), encoding="utf-8")


@pytest.mark.parametrize("layout", ["", "tsv_data", "lra_release/lra_release/tsv_data"])
def test_pairs_are_read_with_their_quotes(tmp_path, layout):
    make_pairs(tmp_path / "source", layout)
    data = load(Retrieval(source=str(tmp_path / "source")), tmp_path)
    assert [len(rows) for rows in data.splits.values()] == [2, 2, 2]
    row = data.splits["train"][0]
    assert row["labels"] == 1
    assert [len(ids) for ids in row["input_ids"]] == [len(PAIRS[0][3]) + 1, len(PAIRS[0][4]) + 1]
    batch = data.collate([data.splits["train"][index] for index in range(2)])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 2, 51)
    assert batch["attention_mask"].sum(2).tolist() == [[15, 14], [6, 51]]
    known = set("".join(text for row in PAIRS for text in row[3:]))
    assert data.vocab_size == 3 + len(known)


def test_the_two_texts_of_a_pair_can_be_read_back(tmp_path):
    make_pairs(tmp_path / "source")
    data = load(Retrieval(source=str(tmp_path / "source"), convention="jax", max_length=60), tmp_path)
    batch = data.collate([data.splits["test"][1]])
    first, second = batch["input_ids"][0]
    assert bytes((first[first > 0] - 1).tolist()).decode() == "naïve"
    assert bytes((second[second > 0] - 1).tolist()).decode() == "x" * 50


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.0\tP1\tP2\tonly one text\n", r"train.tsv: received line 3 of 4 columns, starting '1.0"),
        ("2.0\tP1\tP2\ta\tb\n", r"line 3 of 5 columns, starting '2.0.*wanted label 0.0 or 1.0"),
        ("\n", r"line 3 of 1 columns"),
    ],
)
def test_wrong_pairs_are_rejected_with_the_line(tmp_path, line, message):
    make_pairs(tmp_path / "source")
    path = tmp_path / "source" / "tsv_data" / FILES["train"]
    path.write_text(path.read_text() + line)
    with pytest.raises(ValueError, match=message):
        load(Retrieval(source=str(tmp_path / "source")), tmp_path)


def test_missing_pairs_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"no new_aan_pairs.train.tsv in .*get lra_release"):
        load(Retrieval(source=str(tmp_path)), tmp_path)


def make_colours(count):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8), rng.integers(0, 10, count).tolist()


def make_pickles(root):
    colours, labels = make_colours(60)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]):
        part = slice(10 * number, 10 * number + 10)
        flat = colours[part].transpose(0, 3, 1, 2).reshape(10, -1)
        content = {b"batch_label": name.encode(), b"data": flat, b"labels": labels[part], b"filenames": [b"x.png"] * 10}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def make_pictures(root):
    import io

    colours, labels = make_colours(60)
    root.mkdir(parents=True)
    for split, part in (("train", slice(50)), ("test", slice(50, 60))):
        images = []
        for picture in colours[part]:
            buffer = io.BytesIO()
            Pictures.fromarray(picture).save(buffer, "PNG")
            images.append({"bytes": buffer.getvalue(), "path": None})
        parquet.write_table(pyarrow.table({"img": images, "label": labels[part]}), root / f"{split}-00000.parquet")


@pytest.mark.parametrize("make", [make_pickles, make_pictures])
def test_pictures_are_read_grey_and_split_as_s4_does(tmp_path, make):
    make(tmp_path / "source")
    data = load(Image(source=str(tmp_path / "source")), tmp_path)
    colours, labels = make_colours(60)
    expected = np.stack([np.array(Pictures.fromarray(picture).convert("L")) for picture in colours])
    assert [len(rows) for rows in data.splits.values()] == [45, 5, 10]
    order = torch.randperm(50, generator=torch.Generator().manual_seed(42)).tolist()
    for place, split, index in ((order[0], "train", 0), (order[45], "val", 0), (50, "test", 0)):
        row = data.splits[split][index]
        assert np.array_equal(row["pixels"], expected[place])
        assert row["labels"] == labels[place]
    batch = data.collate([data.splits["test"][index] for index in range(2)])
    assert torch.allclose(batch["pixel_values"][:, 0], torch.from_numpy((expected[50:52] - 122.6) / 61).float())


def test_the_tokens_of_the_original_convention_keep_the_order(tmp_path):
    make_pickles(tmp_path / "source")
    data = load(Image(source=str(tmp_path / "source"), convention="jax"), tmp_path)
    colours, _ = make_colours(60)
    assert data.collate([data.splits["val"][0]])["input_ids"].tolist() == [grey(colours[45]).ravel().tolist()]


def test_pictures_of_mega_bring_their_splits(tmp_path):
    colours, labels = make_colours(20)
    for name in ("input", "label"):
        (tmp_path / "source" / name).mkdir(parents=True)
    for split, part in (("train", slice(12)), ("valid", slice(12, 15)), ("test", slice(15, 20))):
        lines = [" ".join(map(str, picture.ravel())) for picture in grey(colours)[part]]
        (tmp_path / "source" / "input" / f"{split}.src").write_text("\n".join(lines) + "\n")
        (tmp_path / "source" / "label" / f"{split}.label").write_text("".join(f"{y}\n" for y in labels[part]))
    data = load(Image(source=str(tmp_path / "source"), convention="mega"), tmp_path)
    assert [len(rows) for rows in data.splits.values()] == [12, 3, 5]
    row = data.splits["val"][1]
    assert np.array_equal(row["pixels"], grey(colours[13]))
    assert row["labels"] == labels[13]
    batch = data.collate([row])
    assert torch.allclose(
        batch["pixel_values"][0, 0], torch.from_numpy((grey(colours[13]) / 255 - 0.48) / 0.24).float()
    )


@pytest.mark.parametrize(("make", "task", "folder"), [(make_folders, Text, "aclImdb"), (make_pickles, Image, "cifar")])
def test_archives_unpacked_into_a_folder_of_their_own_name_are_read(tmp_path, make, task, folder):
    outer = tmp_path / "source" / ("cifar-10-batches-py" if folder == "cifar" else folder)
    make(outer)
    data = load(task(source=str(tmp_path / "source")), tmp_path)
    assert len(data.splits["test"]) == (3 if task is Text else 10)


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Bomb(), r"it asks for __builtin__.print, which is not read"),
        ({b"data": np.zeros((2, 3072), np.uint8)}, r"no batch of CIFAR-10 \(b'labels'\)"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, r"uint8 data of 2 images with 1 labels"),
        ({b"data": np.zeros((2, 7), np.uint8), b"labels": [1, 2]}, r"no batch of CIFAR-10 \(cannot reshape"),
        ([1, 2], r"no batch of CIFAR-10"),
    ],
)
def test_pickles_with_anything_else_are_rejected_and_run_nothing(tmp_path, capsys, content, message):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=message):
        list(read_batch(path))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"no batch of CIFAR-10|it asks for|images with"):
        list(read_batch(path))
    assert capsys.readouterr().out == ""


def test_missing_and_damaged_pictures_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"no data_batch_1 in .*cifar-10-batches-py"):
        load(Image(source=str(tmp_path)), tmp_path)
    (tmp_path / "source").mkdir()
    for split in ("train", "test"):
        table = pyarrow.table({"img": [{"bytes": b"no picture"}], "label": [1]})
        parquet.write_table(table, tmp_path / "source" / f"{split}.parquet")
    with pytest.raises(ValueError, match=r"train row 0: no readable image"):
        load(Image(source=str(tmp_path / "source")), tmp_path)


@pytest.mark.parametrize("name", ["text", "retrieval", "image"])
def test_unknown_conventions_are_rejected(name):
    with pytest.raises(ValueError, match=r"convention='tf'; wanted one of s4, "):
        create_task(name, {"convention": "tf"})


def test_a_model_of_pixels_reads_the_task(tmp_path):
    make_pickles(tmp_path / "source")
    data = load(Image(source=str(tmp_path / "source")), tmp_path)
    recipe = create_recipe("image", "s4d").override({"d_model": 4, "n_layers": 1, "mixer.d_state": 4})
    model = build_model(recipe, data)
    batch = data.collate([data.splits["test"][index] for index in range(2)])
    assert model(**batch).logits.shape == (2, 10)
    assert json.loads(json.dumps(model.config.to_dict()))["patch_size"] == 1
