import torch

from karui.zoo.transformer import Attention, transformer


def test_attention_by_hand() -> None:
    """Vaswani et al. 2017, equation 1, one head at a time."""
    torch.manual_seed(0)
    layer, x = Attention(8, 2), torch.randn(3, 5, 8)
    q, k, v = layer.query(x), layer.key(x), layer.value(x)
    heads = []
    for at in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(q[..., at] @ k[..., at].mT / 2, -1)
        heads.append(weights @ v[..., at])
    assert torch.allclose(layer(x), layer.out(torch.cat(heads, -1)), atol=1e-6)


def test_places_matter() -> None:
    torch.manual_seed(0)
    network, x = transformer().eval(), torch.randn(1, 6, 128)
    assert not torch.allclose(network(x), network(x.flip(2)), atol=1e-4)
    swapped = torch.cat([x[:, :, 64:], x[:, :, :64]], 2)  # the same patches elsewhere
    assert not torch.allclose(network(x), network(swapped), atol=1e-6)
