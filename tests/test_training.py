"""The training loop: continued equals uninterrupted, the best weights stay, each step once."""

import json
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tinybert_lite import UserError, training
from tinybert_lite.data.storage import load_tensors
from tinybert_lite.training import LossNotFinite, MeanLoss, TrainingConfig, fit, learning_rate_at

ROWS, SIZE = 128, 8  # 16 steps an epoch
LENGTHS = np.random.default_rng(3).integers(3, 30, ROWS)
X = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, :1] * 2 - X[:, 1:2]).tanh()


class Stop(Exception):
    """Stands for the kill."""


class Toy(nn.Module):
    """Two layers with dropout between, so that the random generator matters."""

    def __init__(self, dropout: float = 0.3):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Dropout(dropout), nn.Linear(8, 1))

    def forward(self, rows):
        return self.layers(X[rows])


def loss(module, rows):
    error = module(rows) - Y[rows]
    return {"square": error.square().mean(), "absolute": 0.1 * error.abs().mean()}


@pytest.fixture
def often(monkeypatch):
    """Look at the losses, and so at the clock, after every step."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)


def train(folder, module=None, score=None, on_step=None, loss=loss, lengths=LENGTHS, **settings):
    folder.mkdir(exist_ok=True)
    module = (module or Toy()).train()
    given = {"epochs": 3, "batch_size": SIZE, "learning_rate": 1e-2, "save_seconds": 0} | settings
    history = fit(
        "toy", module, loss, lengths, TrainingConfig(**given), folder, Accelerator(cpu=True),
        score and (lambda: score(module)), on_step, progress=False,
    )  # fmt: skip
    return module, history


def up_and_down(module) -> float:
    """A score that depends on the weights alone and does not only rise."""
    return math.sin(1e4 * module.layers[0].weight.sum().item())


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def records(folder):
    return [json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {s: train(folder / str(bool(s)), score=s) for s in (None, up_and_down)}


# 16 is the end of the first epoch, 32 of the second
STEPS = [1, 2, 7, 14, 15, 16, 17, 18, 25, 31, 32, 33, 40, 46, 47]


@pytest.mark.parametrize("score", [None, up_and_down], ids=["last weights", "best weights"])
@pytest.mark.parametrize("step", STEPS)
def test_stopped_at_any_step_and_continued_it_ends_in_the_same_weights(
    step, score, uninterrupted, tmp_path, often
):
    def stop(at, losses):
        if at == step + 1:  # the checkpoint of `step` is written after this call for `step`
            raise Stop

    with pytest.raises(Stop):
        train(tmp_path / "cut", score=score, on_step=stop)
    kept = json.loads(load_tensors(tmp_path / "cut" / "toy.safetensors")[1]["facts"])["step"]
    assert kept == step if step % 16 or score else kept in (step, step - 1)
    torch.rand(17)  # a continued run finds the random generator anywhere
    module, history = train(tmp_path / "cut", Toy(), score)
    whole, expected = uninterrupted[score]
    assert same(module, whole)
    assert history.best == expected.best
    log = records(tmp_path / "cut")
    assert [r["step"] for r in log if "losses" in r] == list(range(1, 49))
    if score:
        assert [r["step"] for r in log if "score" in r] == [16, 32, 48]


def test_stopped_again_and_again_it_ends_in_the_same_weights(uninterrupted, tmp_path, often):
    for _ in range(30):
        alive = iter(range(2))

        def stop(at, losses, alive=alive):
            if next(alive, None) is None:
                raise Stop

        try:
            module, _ = train(tmp_path / "cut", Toy(), up_and_down, stop)
            break
        except Stop:
            continue
    assert same(module, uninterrupted[up_and_down][0])


def test_the_random_generator_of_the_caller_does_not_matter_but_the_seed_does(tmp_path):
    runs = []
    for i, seed in enumerate([0, 0, 1]):
        module = Toy()
        torch.manual_seed(100 + i)
        runs.append(train(tmp_path / str(i), module, seed=seed)[0])
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_the_weights_with_the_best_score_are_the_ones_kept(tmp_path):
    seen = []

    def score(module):
        assert not module.training
        seen.append({k: v.clone() for k, v in module.state_dict().items()})
        return [0.2, 0.9, 0.9, 0.4][len(seen) - 1]

    module, history = train(tmp_path / "a", score=score, epochs=4)
    assert history.best == 0.9 and len(seen) == 4
    assert all(torch.equal(v, seen[1][k]) for k, v in module.state_dict().items())
    assert not module.training


def test_without_a_score_the_last_weights_are_kept(tmp_path):
    module, history = train(tmp_path / "a")
    kept, _ = load_tensors(tmp_path / "a" / "toy.safetensors")
    assert history.best is None
    assert all(torch.equal(v, kept[f"module.{k}"]) for k, v in module.state_dict().items())


def test_an_infinite_time_between_checkpoints_writes_none_and_trains_the_same(tmp_path):
    ours, _ = train(tmp_path / "none", save_seconds=math.inf)
    theirs, _ = train(tmp_path / "some")
    assert same(ours, theirs)
    assert not list((tmp_path / "none").glob("*.safetensors"))
    assert list((tmp_path / "some").glob("*.safetensors"))


def test_training_lowers_the_loss(tmp_path):
    _, history = train(tmp_path / "a", Toy(dropout=0.0), epochs=20)
    losses = [r["losses"]["square"] for r in history.records]
    assert losses[-1] < 0.2 * losses[0]


def test_the_rate_rises_linearly_in_warm_up_and_falls_linearly_to_zero():
    rates = [
        learning_rate_at(step, 100, TrainingConfig(learning_rate=2.0, warmup=0.1))
        for step in range(100)
    ]
    np.testing.assert_allclose(np.diff(rates[:10]), 0.2)
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == max(rates) == 2.0
    np.testing.assert_allclose(np.diff(rates[10:]), -2.0 / 90)
    assert 0 < rates[-1] <= 2.0 / 90 + 1e-12 and learning_rate_at(100, 100, TrainingConfig()) == 0
    assert learning_rate_at(0, 1, TrainingConfig(learning_rate=2.0)) == 2.0


def test_the_optimiser_gets_the_rate_of_the_step(tmp_path, often):
    _, history = train(tmp_path / "a")
    expected = [
        learning_rate_at(step, 48, TrainingConfig(learning_rate=1e-2)) for step in range(48)
    ]
    assert [r["learning_rate"] for r in history.records] == expected
    frozen, _ = train(tmp_path / "b", learning_rate=0.0)
    assert same(frozen, Toy())


def test_gradients_longer_than_the_clip_are_shortened_to_it(tmp_path, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def watched(self, *a, **k):
        grads = [p.grad for g in self.param_groups for p in g["params"]]
        norms.append(torch.cat([g.flatten() for g in grads]).norm().item())
        return step(self, *a, **k)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train(tmp_path / "free", clip=0.0, epochs=1)
    free, norms[:] = list(norms), []
    train(tmp_path / "clipped", clip=0.1, epochs=1)
    assert max(free) > 0.2 and max(norms) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("rows", [128, 123])
def test_accumulating_over_parts_of_a_batch_changes_nothing_but_rounding(rows, tmp_path):
    lengths = LENGTHS[:rows]
    one, _ = train(tmp_path / "1", Toy(dropout=0.0), lengths=lengths)
    for parts in (2, 3):
        more, _ = train(tmp_path / str(parts), Toy(dropout=0.0), lengths=lengths, accumulate=parts)
        for a, b in zip(one.parameters(), more.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        assert not same(one, more)  # or the parts were not taken


@pytest.mark.parametrize("name", ["square", "attention", "hidden"])
def test_a_mean_over_tokens_in_parts_has_the_gradients_of_the_whole_under_any_name(
    name, tmp_path, monkeypatch
):
    gradients = []

    def keep(self, *args, **options):
        gradients.append([p.grad.clone() for g in self.param_groups for p in g["params"]])

    def over_tokens(module, rows):
        tokens = torch.from_numpy(LENGTHS[rows])[:, None]
        value = ((module(rows) - Y[rows]).square() * tokens).sum() / tokens.sum()
        return {name: MeanLoss(value, np.sum)}

    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    for parts in (1, 3):
        folder = tmp_path / str(parts)
        train(folder, Toy(0.0), loss=over_tokens, accumulate=parts, epochs=1 / 16, clip=0.0)
    for whole, sum_of_parts in zip(*gradients, strict=True):
        torch.testing.assert_close(sum_of_parts, whole, rtol=1e-4, atol=1e-6)


def test_biases_do_not_decay_and_weights_do(tmp_path):
    def nothing(module, rows):
        return {"zero": 0.0 * sum(p.sum() for p in module.parameters())}

    start, end = Toy(), train(tmp_path / "a", loss=nothing, weight_decay=0.5)[0]
    before, after = dict(start.named_parameters()), dict(end.named_parameters())
    assert torch.equal(before["layers.0.bias"], after["layers.0.bias"])
    assert after["layers.0.weight"].norm() < 0.95 * before["layers.0.weight"].norm()


def test_what_asks_for_no_gradient_is_not_touched(tmp_path):
    module = Toy()
    module.layers[0].requires_grad_(False)
    train(tmp_path / "a", module)
    assert torch.equal(module.layers[0].weight, Toy().layers[0].weight)
    assert not torch.equal(module.layers[2].weight, Toy().layers[2].weight)


def test_parts_of_an_epoch_are_that_many_steps(tmp_path, often):
    steps = {}
    for epochs in (0.5, 1, 1.25, 2.5):
        _, history = train(tmp_path / str(epochs), epochs=epochs)
        steps[epochs] = sum("losses" in r for r in history.records)
    assert steps == {0.5: 8, 1: 16, 1.25: 20, 2.5: 40}


def test_the_log_holds_means_of_the_steps_between_two_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    _, single = train(tmp_path / "1", epochs=1)
    monkeypatch.setattr(training, "LOG_EVERY", 5)
    _, fives = train(tmp_path / "5", epochs=1)
    squares = [r["losses"]["square"] for r in single.records]
    assert [r["step"] for r in fives.records] == [5, 10, 15, 16]
    means = [np.mean(squares[i : i + 5]) for i in (0, 5, 10, 15)]
    np.testing.assert_allclose([r["losses"]["square"] for r in fives.records], means, rtol=1e-6)


def test_a_line_cut_short_in_the_log_is_dropped(tmp_path):
    train(tmp_path / "a")
    whole = (tmp_path / "a" / "log.jsonl").read_text()
    with (tmp_path / "a" / "log.jsonl").open("a") as f:
        f.write('{"phase": "toy", "st')
    train(tmp_path / "a")
    assert (tmp_path / "a" / "log.jsonl").read_text() == whole


def test_a_finished_phase_given_again_takes_no_step(tmp_path):
    module, _ = train(tmp_path / "a", score=up_and_down)

    def never(module, rows):
        raise AssertionError("a step was taken")

    again, _ = train(tmp_path / "a", Toy(), up_and_down, loss=never)
    assert same(module, again)


def test_the_errors_of_the_loop_are_user_errors():
    assert issubclass(LossNotFinite, UserError)


def test_the_rate_may_stay_constant_until_a_last_share_of_the_steps():
    config = TrainingConfig(learning_rate=2.0, warmup=0.1, decay=0.3)
    rates = [learning_rate_at(step, 100, config) for step in range(100)]
    assert rates[9:71] == [2.0] * 62 and rates[0] == 0.2
    assert rates[70:] == sorted(rates[70:], reverse=True) and rates[99] == pytest.approx(2.0 / 30)


def test_batches_may_be_given_and_are_taken_in_their_order(tmp_path):
    given = [np.array([3, 1]), np.array([0]), np.array([2, 3])]
    model, seen = nn.Linear(1, 1), []

    def loss(module, rows):
        seen.append(rows.tolist())
        return {"loss": module(torch.ones(1, 1)).square().mean()}

    config = TrainingConfig(epochs=2, batch_size=2, save_seconds=math.inf)
    fit(
        "given", model, loss, np.ones(4), config, tmp_path, Accelerator(cpu=True),
        progress=False, batches=lambda epoch: given,
    )  # fmt: skip
    assert seen == 2 * [rows.tolist() for rows in given]
