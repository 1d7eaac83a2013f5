"""PyTorch's autograd with gdgpu's optimizers: they update the module's own parameters where they lie, with no copy.

Run: python examples/torch_dlpack.py
"""

import torch
from torch.func import functional_call, grad, vmap

import gdgpu


def network(device):
    torch.manual_seed(0)
    layers = torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10)
    return torch.nn.Sequential(*layers).to(device)


def train(net, X, t, epochs, max_norm=None):
    """Momentum by autograd's mean gradient, or by every sample's gradient, clipped to max_norm."""
    # detach shares the memory, and is what may be written to between the passes of autograd.
    params = {name: p.detach() for name, p in net.named_parameters()}
    opt = gdgpu.Momentum(params, lr=0.05, momentum=0.9)

    def loss(params, x, y):
        return torch.nn.functional.cross_entropy(functional_call(net, params, (x,)), y)

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))
    rows = torch.arange(len(X)).numpy()
    for epoch in range(epochs):
        for (batch,) in gdgpu.minibatches(rows, batch_size=64, epoch=epoch):
            x, y = X[batch], t[batch]
            if max_norm is None:
                net.zero_grad()
                torch.nn.functional.cross_entropy(net(x), y).backward()
                opt.step({name: p.grad for name, p in net.named_parameters()})
            else:  # G: a dict of (batch, *shape); one read clips, reduces and updates
                opt.step_samples(per_sample(params, x, y), max_norm=max_norm)


def main(epochs=10):
    device = gdgpu.devices.resolve().name if torch.cuda.is_available() else "cpu"
    digits = gdgpu.datasets.digits()
    data = gdgpu.datasets.split(digits.X, digits.t)
    X, X_test = (torch.as_tensor(array, device=device) for array in (data.X, data.X_test))
    t, t_test = (torch.as_tensor(array, device=device).long() for array in (data.t, data.t_test))
    accuracy = {}
    for name, max_norm in (("mean gradient", None), ("each sample clipped to 1", 1.0)):
        net = network(device)
        train(net, X, t, epochs, max_norm)
        accuracy[name] = float((net(X_test).argmax(dim=1) == t_test).float().mean())
        print(f"{name:24} test accuracy {accuracy[name]:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
