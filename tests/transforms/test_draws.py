"""Streams of draws that were given one seed."""

import torch

from torchrl_moawm.transforms.draws import Draws

CPU = torch.device("cpu")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def drawn(stream):
    return stream.integers(1000, (50,), CPU)


def test_the_first_stream_of_a_seed_is_the_generators_and_all_others_differ():
    streams = [Draws(seeded(71)) for _ in range(4)]
    numbers = torch.stack([drawn(stream) for stream in streams])
    assert torch.equal(numbers[0], torch.randint(1000, (50,), generator=seeded(71)))
    assert len(numbers.unique(dim=0)) == 4


def test_without_a_generator_a_stream_is_torchs():
    torch.manual_seed(5)
    expected = torch.randint(1000, (50,))
    torch.manual_seed(5)
    assert torch.equal(drawn(Draws(None)), expected)


def test_a_stream_that_is_seeded_repeats_itself():
    stream = Draws(None)
    numbers = []
    for _ in range(2):
        stream.seed(3, CPU)
        numbers.append(drawn(stream))
    assert torch.equal(*numbers)
