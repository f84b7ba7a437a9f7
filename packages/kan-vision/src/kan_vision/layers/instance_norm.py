"""Instance normalisation whose gradient is right for a single image too."""

from __future__ import annotations

from torch import nn


def instance_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Every channel of every sample to mean 0 and variance 1, whatever the number of spatial dimensions.

    A group normalisation of single channels: the same values and parameters as ``nn.InstanceNorm2d``, whose gradient
    is wrong on the CPU of torch 2.11 for a batch of one image when the incoming gradient is channels-last, which is
    what a KAN convolution sends back.

    Args:
        channels: Channels of the input, its second dimension.
        affine: Learn a factor and an offset per channel.
    """
    return nn.GroupNorm(channels, channels, affine=affine)
