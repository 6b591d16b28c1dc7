"""Speech Commands and PTB-XL: small data in exactly the published formats."""

import csv
import math
import wave

import numpy as np
import pytest
import torch

from lra.models.build import build_model
from lra.models.rates import at_rate
from lra.recipes.catalog import create_recipe
from lra.tasks import create_task
from lra.tasks.signals.features import COEFFICIENTS, FRAMES, mfcc
from lra.tasks.signals.speech import TEN, WORDS
from lra.training.evaluation import evaluate
from lra.training.run import run
from lra.training.scores import macro_auroc
from seqconv import SeqConvConfig, SeqConvForAudioClassification

STREAM = np.random.default_rng(0)


def write_wav(path, samples, rate=16_000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def make_words(root, words, each=3, length=16_000):
    """The archive's layout: a folder per word, and lists of what validates and what tests."""
    written = {}
    for number, word in enumerate(words):
        for index in range(each):
            samples = STREAM.integers(-3000, 3000, length - 100 * (index == 0), dtype=np.int16)
            write_wav(root / word / f"{index:08x}_nohash_0.wav", samples)
            written[number, index] = samples
    for name, index in (("validation_list.txt", 1), ("testing_list.txt", 2)):
        (root / name).write_text("".join(f"{word}/{index:08x}_nohash_0.wav\n" for word in words))
    return written


def load(name, source, data, **options):
    task = create_task(name, {"source": str(source), **options})
    task.prepare(data, quiet=True)
    return task.load(data)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    root = tmp_path_factory.mktemp("words")
    return root, make_words(root / "SpeechCommands", WORDS)


def test_thirty_five_words_are_split_by_the_lists_and_scaled_by_the_training_split(words, tmp_path):
    root, written = words
    data = load("sc35", root, tmp_path)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 35, "val": 35, "test": 35}
    padded = np.stack([np.pad(written[label, 0], (0, 100)) for label in range(35)]) / 32768
    mean, deviation = padded.mean(), padded.std(ddof=1) + 1e-5
    for split, index in (("val", 1), ("test", 2)):
        batch = data.collate([data.splits[split][label] for label in (0, 4, 34)])
        want = np.stack([written[label, index] for label in (0, 4, 34)]) / 32768
        torch.testing.assert_close(batch["input_values"][..., 0], torch.tensor((want - mean) / deviation).float())
        assert batch["labels"].tolist() == [0, 4, 34]
    first = data.collate([data.splits["train"][7]])["input_values"][0, :, 0]
    torch.testing.assert_close(first, torch.tensor((padded[7] - mean) / deviation).float())
    half = load("sc35", root, tmp_path, rate=8000)
    assert half.max_length == 8000
    assert torch.equal(half.collate([half.splits["train"][7]])["input_values"][0, :, 0], first[::2])


def test_ten_words_leave_out_what_is_not_a_second_long(tmp_path):
    make_words(tmp_path / "source", TEN, each=8)
    data = load("sc10-mfcc", tmp_path / "source", tmp_path / "data")
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 50, "val": 10, "test": 10}
    rows = data.collate([data.splits["train"][i] for i in range(50)])
    assert rows["input_values"].shape == (50, FRAMES, COEFFICIENTS)
    assert torch.allclose(rows["input_values"].mean((0, 1)), torch.zeros(COEFFICIENTS), atol=1e-4)
    assert torch.allclose(rows["input_values"].std((0, 1)), torch.ones(COEFFICIENTS), atol=1e-3)
    assert rows["labels"].bincount().tolist() == [5] * 10


def test_cepstral_coefficients_follow_their_definition():
    """Frame by frame and band by band, with the scale of mels written out."""
    x = torch.from_numpy(STREAM.standard_normal(1000))
    got = mfcc(x)
    assert got.shape == (11, COEFFICIENTS)
    padded = np.pad(x.numpy(), 100, mode="reflect")
    edges = 700 * (10 ** (np.linspace(0, 2595 * math.log10(1 + 8000 / 700), 66) / 2595) - 1)
    hertz = np.arange(101) * 80.0
    for frame in (0, 6):
        window = padded[100 * frame : 100 * frame + 200] * np.sin(np.pi * np.arange(200) / 200) ** 2
        power = np.abs(np.fft.rfft(window)) ** 2
        rising = (hertz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - hertz[:, None]) / (edges[2:] - edges[1:-1])
        logs = np.log(power @ np.clip(np.minimum(rising, falling), 0, None) + 1e-6)
        for k in (0, 3, 19):
            norm = math.sqrt((1 if k == 0 else 2) / 64)
            want = norm * np.sum(logs * np.cos(np.pi * k * (2 * np.arange(64) + 1) / 128))
            assert float(got[frame, k]) == pytest.approx(want, rel=1e-9)


def test_processed_tensors_bring_their_own_splits_and_scale(tmp_path):
    folder = tmp_path / "SpeechCommands" / "processed_data" / "mfcc"
    folder.mkdir(parents=True)
    values = {}
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        values[split] = torch.randn(count, 20, 161)
        torch.save(values[split], folder / f"{split}_X.pt")
        torch.save(torch.arange(count), folder / f"{split}_y.pt")
    data = load("sc10-mfcc", tmp_path, tmp_path / "data")
    got = data.collate([data.splits["test"][i] for i in range(3)])
    assert torch.equal(got["input_values"], values["test"].mT)
    assert got["labels"].tolist() == [0, 1, 2]
    torch.save(torch.tensor([0, 10]), folder / "val_y.pt")
    with pytest.raises(ValueError, match=r"val label 1: received label 10; wanted 0 to 9"):
        load("sc10-mfcc", tmp_path, tmp_path / "other")
    torch.save(torch.randn(2, 20, 7), folder / "val_X.pt")
    with pytest.raises(ValueError, match=r"val_X of shape \(2, 20, 7\); wanted \(2, 20, 161\)"):
        load("sc10-mfcc", tmp_path, tmp_path / "other")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "validation_list.txt").unlink(),
            r"no validation_list.txt .*speech_commands_v0.02.tar.gz",
        ),
        (
            lambda root: (root / "testing_list.txt").write_text("bed/no.wav\n"),
            r"line 1: 'bed/no.wav', which is not there",
        ),
        (lambda root: (root / "bed").rename(root / "bad"), r"no bed in .*download.tensorflow.org"),
        (
            lambda root: write_wav(root / "cat" / "a.wav", np.zeros(9), 8000),
            r"16 bits at 8000 Hz, 18 bytes for 9 samples",
        ),
        (lambda root: (root / "cat" / "a.wav").write_bytes(b"RIFF"), r"a.wav: received no readable WAV file"),
        (lambda root: write_wav(root / "cat" / "a.wav", np.zeros(0), 16000), r"0 bytes for 0 samples; .*at least one"),
        (lambda root: cut(next((root / "cat").glob("*.wav"))), r"398 bytes for 200 samples"),
    ],
)
def test_damaged_archives_are_named(tmp_path, damage, message):
    make_words(tmp_path / "source", WORDS, each=3, length=200)
    damage(tmp_path / "source")
    with pytest.raises(ValueError, match=message):
        load("sc35", tmp_path / "source", tmp_path / "data")


def test_a_word_without_recordings_is_named(tmp_path):
    make_words(tmp_path / "source", TEN, each=1, length=200)
    for path in (tmp_path / "source" / "go").glob("*.wav"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no recording in .*go; wanted recordings of every word"):
        load("sc10", tmp_path / "source", tmp_path / "data")


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": 12}, "words=12"),
        ({"features": "mel"}, "features='mel'"),
        ({"rate": 7000}, "rate=7000"),
        ({"features": "mfcc", "rate": 8000}, r"raw, at a rate that divides 16000, or mfcc at 16000"),
    ],
)
def test_wrong_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        create_task("sc35", options)


def test_archives_that_are_not_given_are_named(tmp_path):
    for name, archive in (("sc35", "speech_commands_v0.02"), ("ptbxl", "physionet.org"), ("enwik8", "mattmahoney.net")):
        with pytest.raises(ValueError, match=f"prepare {name}: received no .*{archive}"):
            create_task(name).prepare(tmp_path, quiet=True)


SMALL = {"d_model": 8, "n_layers": 1, "steps": 2, "warmup_steps": 1, "eval_every": 1, "batch_size": 10}


def test_only_mixers_by_functions_of_time_change_their_rate():
    """Every mixer is replaced by itself at that rate, with the same parameters."""
    config = {"hidden_size": 8, "num_hidden_layers": 2, "modality": "audio", "num_labels": 3, "frame_size": 1}
    model = SeqConvForAudioClassification(
        SeqConvConfig(mixer="s4d", mixer_options={"d_state": 4}, frame_stride=1, **config)
    )
    before = dict(model.named_parameters())
    x, mixers = torch.randn(2, 60), [block.mixer for block in model.model.backbone.layers]
    y = model(x).logits
    assert at_rate(model, 2.0) is model
    assert all(p is before[name] for name, p in model.named_parameters())
    for block, mixer in zip(model.model.backbone.layers, mixers, strict=True):
        u = torch.randn(2, 9, 8)
        assert torch.equal(block.mixer(u), mixer.at_rate(2.0)(u))
    assert not torch.allclose(model(x).logits, y)
    assert create_task("sc35", {"rate": 4000}).spacing == 4.0
    assert create_task("ptbxl", {"rate": 500}).spacing == 0.2


@pytest.mark.slow
def test_a_run_is_evaluated_at_another_sampling_rate(tmp_path):
    """Half the samples, twice as far apart: a state space knows what to do, a filter of taps does not."""
    make_words(tmp_path / "source", TEN, each=8)
    source = {"task.source": str(tmp_path / "source")}
    made = create_recipe("sc10", "s4d").override({**SMALL, **source, "mixer.d_state": 4})
    result = run(made, tmp_path / "run", data_root=tmp_path / "data", quiet=True)
    data = load("sc10", tmp_path / "source", tmp_path / "data", rate=8000)
    model, test = at_rate(result.model.eval().cpu(), 2.0), data.splits["test"]
    batch = data.collate([test[i] for i in range(len(test))])
    with torch.no_grad():
        right = (model(batch["input_values"]).logits.argmax(-1) == batch["labels"]).float().mean()
    options = {"data_root": tmp_path / "data", "quiet": True, "overrides": {"task.rate": 8000}}
    assert evaluate(tmp_path / "run", **options) == pytest.approx(float(right))
    with pytest.raises(ValueError, match=r"at_rate: received rate=2\.0; wanted a mixer by functions of time"):
        at_rate(build_model(create_recipe("sc10", "sgconv").override(SMALL), data), 2.0)


LEADS = 12


def make_ecg(root, rate=100):
    """Ten recordings, one in each fold, in the release's layout: WFDB headers and samples, and both tables."""
    root.mkdir(parents=True)
    codes = [{"NORM": 100.0}, {"IMI": 50.0, "SR": 0.0}, {"LVH": 0.0, "NDT": 100.0}, {"SR": 0.0}]
    values, rows = [], []
    folder = {100: "records100", 500: "records500"}[rate]
    for number in range(1, 13):
        name = f"{folder}/00000/{number:05d}_{'lr' if rate == 100 else 'hr'}"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        samples = STREAM.integers(-2000, 2000, (10 * rate, LEADS), dtype=np.int16)
        (root / f"{name}.dat").write_bytes(samples.astype("<i2").tobytes())
        head = [f"{number:05d}_lr {LEADS} {rate} {10 * rate}"]
        head += [f"{name.split('/')[-1]}.dat 16 1000.0(0)/mV 16 0 -119 1508 0 {lead}" for lead in range(LEADS)]
        (root / f"{name}.hea").write_text("\n".join(head) + "\n")
        values.append(samples / 1000)
        given = codes[(number - 1) % 4] if number < 11 else codes[number - 11]
        files = {"filename_lr": name, "filename_hr": name}
        rows.append({"ecg_id": number, "scp_codes": str(given), "strat_fold": min(number, 10), **files})
    with (root / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (root / "scp_statements.csv").write_text(
        ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"
        "NORM,normal ECG,1.0,,,NORM,NORM\nIMI,inferior,1.0,,,MI,IMI\nLVH,hypertrophy,1.0,,,HYP,LVH\n"
        "NDT,non-diagnostic T,1.0,1.0,,STTC,STTC\nSR,sinus rhythm,,,1.0,,\n"
    )
    return np.stack(values)


def test_electrocardiograms_are_read_with_their_folds_and_labels(tmp_path):
    values = make_ecg(tmp_path / "ptbxl")
    data = load("ptbxl", tmp_path, tmp_path / "data")
    kept = [i for i in range(12) if i not in (3, 7)]  # those of a rhythm alone bear no superclass
    train = values[[i for i in kept if i < 8]]
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 6, "val": 1, "test": 3}
    assert (data.classes, data.score) == (4, "macro AUROC")  # HYP, MI, NORM, STTC
    batch = data.collate([data.splits["test"][i] for i in range(3)])
    want = (values[[9, 10, 11]] - train.mean()) / train.std()
    torch.testing.assert_close(batch["input_values"], torch.tensor(want).float(), atol=1e-4, rtol=1e-4)
    assert batch["labels"].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    for group, classes in (("all", 5), ("diagnostic", 4), ("subdiagnostic", 4)):
        assert load("ptbxl", tmp_path, tmp_path / "data", labels=group).classes == classes
    with pytest.raises(ValueError, match="none in a split; wanted recordings in folds 1 to 10"):
        load("ptbxl", tmp_path, tmp_path / "data", labels="form")


def test_an_electrocardiogram_run_reports_the_area_under_the_curve(tmp_path):
    make_ecg(tmp_path / "ptbxl")
    recipe = create_recipe("ptbxl", "s4d").override({**SMALL, "batch_size": 4, "task.source": str(tmp_path)})
    result = run(recipe, tmp_path / "run", data_root=tmp_path / "data", quiet=True)
    data = load("ptbxl", tmp_path, tmp_path / "data")
    batch = data.collate([data.splits["test"][i] for i in range(3)])
    with torch.no_grad():
        scores = result.model.eval().cpu()(batch["input_values"]).logits.numpy()
    assert result.accuracy["test"] == pytest.approx(macro_auroc(scores, batch["labels"].numpy()))


def test_the_area_under_the_curve_counts_pairs():
    scores, labels = STREAM.integers(0, 4, (40, 3)), STREAM.integers(0, 2, (40, 3)).astype(np.float32)
    labels[:, 2] = 1  # borne by all: no area
    areas = []
    for c in range(2):
        high, low = scores[labels[:, c] == 1, c], scores[labels[:, c] == 0, c]
        pairs = (high[:, None] > low) + 0.5 * (high[:, None] == low)
        areas.append(pairs.mean())
    assert macro_auroc(scores, labels) == pytest.approx(np.mean(areas))
    assert macro_auroc(scores[:, 2:], labels[:, 2:]) == 0.5


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "records100/00000/00002_lr.dat").write_bytes(b"1"), r"received 1 bytes; wanted 24000"),
        (lambda root: (root / "records100/00000/00002_lr.hea").write_text("x 12 100 1000\n"), r"received 1 lines"),
        (lambda root: (root / "records100/00000/00002_lr.hea").unlink(), r"received no such file"),
        (lambda root: (root / "ptbxl_database.csv").write_text("ecg_id\n1\n"), r"without the columns 'scp_codes'"),
        (lambda root: (root / "scp_statements.csv").unlink(), r"no scp_statements.csv .*physionet"),
    ],
)
def test_damaged_releases_are_named(tmp_path, damage, message):
    make_ecg(tmp_path / "ptbxl")
    damage(tmp_path / "ptbxl")
    with pytest.raises(ValueError, match=message):
        load("ptbxl", tmp_path, tmp_path / "data")
