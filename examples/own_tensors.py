"""Your own tensors, network and objective: ebb's loop asks for nothing else."""

import torch

import ebb

data = torch.randn(4096, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])  # any tensor [n, *d]
model = ebb.NetworkDenoiser(ebb.MLP(2), ebb.Linear(), ebb.velocity)  # any module (x, time, cond) → like x
training = ebb.Training(model, torch.optim.AdamW(model.parameters(), lr=2e-3), ebb.EMA(model))


def batches(step):
    return ebb.Batch(data[torch.randint(len(data), (256,))], {})


for step in ebb.updates(training, ebb.Denoising(), batches, steps=600):  # any (model, batch, generator) → Loss
    if step.number % 150 == 0:
        print(step.number, round(step.loss.item(), 3))

noise, times = ebb.Noise.of(0, 2000), ebb.GRIDS["uniform"](model.path, 16)
for point in ebb.trajectory(training.ema.model, ebb.Heun(), times, noise.start((2,)), {}, noise):
    x = point.x  # the loop is yours: plot it, stop it, change it
print("covariance of the data", data.T.cov().tolist(), "and of the samples", x.T.cov().tolist())
