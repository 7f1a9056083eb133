from dataclasses import replace

from pipeline.models.run_record import Epoch, StreamEpoch
from pipeline.training.history import best_epoch, dead_streams, ran_out_of_patience


def epochs(*measures):
    """A history with these pairs of accuracy and log loss."""
    return [
        Epoch(number, 3 * number, 1.0, accuracy, log_loss, 1e-3, 1.0, 0.0, 0, 8.0)
        for number, (accuracy, log_loss) in enumerate(measures, 1)
    ]


def test_patience_counts_the_epochs_since_the_best_one():
    history = epochs((0.5, 1.0), (0.9, 1.0), (0.8, 1.0))
    assert not ran_out_of_patience([], 1)
    assert not ran_out_of_patience(history, 0)
    assert not ran_out_of_patience(history, 2)
    assert ran_out_of_patience(history, 1)


def test_the_epoch_is_chosen_by_accuracy_then_by_log_loss():
    assert best_epoch(epochs((0.8, 0.5), (0.9, 0.6), (0.9, 0.4), (0.7, 0.1))).epoch == 3


def test_an_epoch_that_was_not_scored_is_chosen_only_as_the_last_one():
    assert best_epoch(epochs((None, None), (0.8, 0.5), (0.9, 0.4), (0.7, 0.1))).epoch == 3
    assert best_epoch(epochs((0.8, 0.5), (0.9, 0.4), (None, None))).epoch == 3


def norms(**streams):
    """Rows of `streams.csv` with these gradient norms, one for each epoch."""
    return [
        StreamEpoch(number, name, 1.0, 0.3, norm)
        for name, values in streams.items()
        for number, norm in enumerate(values, 1)
    ]


def test_a_network_that_lost_its_gradient_is_named_and_no_other():
    last = epochs((None, None), (None, None), (None, None))[-1]
    assert dead_streams(last, norms(scene=[5.8, 1.0, 0.2], sound=[5.9, 0.6, 0.001])) == ["sound"]
    assert dead_streams(last, norms(scene=[0.2, 1.0, 0.05], sound=[0.1, 0.001, 2.0])) == []


def test_a_network_that_never_had_a_gradient_is_frozen_and_not_dead():
    last = epochs((None, None), (None, None))[-1]
    assert dead_streams(last, norms(scene=[0.0, 0.0])) == []


def test_a_gradient_that_is_small_because_the_loss_is_says_nothing():
    last = replace(epochs((None, None), (None, None))[-1], train_loss=0.001)
    assert dead_streams(last, norms(scene=[5.0, 0.001])) == []
