"""Systems that are timed in turn."""

import sys
from itertools import islice

import pytest

import cost_speed
from cost import systems
from cost.turns import ask
from tests.benchmarks.runs import BENCHMARKS
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.tasks.environment import make_env


def test_a_training_goes_on_batch_by_batch():
    config = systems.configure("navigation", 4, 2, "algorithm=mappo", "epochs=1")
    env = make_env(config, 4, 0)
    algorithm = make_algorithm(config, env)
    trainer = make_trainer(config, algorithm, env, lambda _: None)
    collector, frames = trainer.collector, []
    for collection, update in islice(systems.batch_by_batch(trainer), 2):
        frames.append(trainer.collected_frames)
        assert collection > 0
        assert update > 0
    assert frames == [400, 800]
    assert trainer._optim_count == 2 * systems.MINIBATCHES
    collector.shutdown()


def test_batches_that_only_warm_up_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cost_speed.py", "--batches", "2"])
    with pytest.raises(SystemExit):
        cost_speed.main()
    assert "--batches: at least 3" in capsys.readouterr().err


def test_operations_leave_no_gradient():
    config = systems.configure("navigation", 4, 2, "algorithm=mappo")
    env = make_env(config, 4, 0)
    algorithm = make_algorithm(config, env)
    assert systems.operations(config, algorithm, 4) > 0
    assert all(p.grad is None for p in algorithm.loss_module.parameters())


ANSWERS = """
import sys
from cost.turns import answer, wait

for count in range(int(sys.argv[1])):
    wait()
    print("noise")
    answer([count, 0.5])
"""


def test_a_program_works_when_it_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    script = tmp_path / "answers.py"
    script.write_text(ANSWERS)
    answers = ask([sys.executable, script, "3"])
    assert list(islice(answers, 2)) == [[0, 0.5], [1, 0.5]]
    answers.close()
    with pytest.raises(RuntimeError, match=r"answers\.py.* has ended"):
        list(ask([sys.executable, script, "3"]))
