"""The networks a recipe or a checkpoint can name."""

from ebb.networks.dit import DiT
from ebb.networks.mlp import MLP
from ebb.networks.mmdit import MMDiT
from ebb.networks.unet import UNet

NETWORKS = {"unet": UNet, "dit": DiT, "mmdit": MMDiT, "mlp": MLP}
