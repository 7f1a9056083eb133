"""A step whose gradient is not finite: nothing of it is left."""

from short_trainings import equal, train, with_training

from pipeline.training import loop
from pipeline.training.state import weights_of


def test_a_step_whose_gradient_is_not_finite_does_not_move_the_average(ready, tmp_path, monkeypatch):
    clip, take_step, averages = loop.clip_gradients, loop.optimization_step, []

    def without_a_third_gradient(*arguments):
        norm, norms = clip(*arguments)
        return (norm * float("nan") if len(averages) == 2 else norm), norms

    def noting_the_average(training, *rest):
        loss = take_step(training, *rest)
        averages.append(weights_of(training.scored_model))
        return loss

    monkeypatch.setattr(loop, "clip_gradients", without_a_third_gradient)
    monkeypatch.setattr(loop, "optimization_step", noting_the_average)
    train(with_training(ready, ema_decay=0.5, epochs=1), tmp_path)
    assert not equal(averages[0], averages[1])
    assert equal(averages[1], averages[2])
