"""Networks: tensor → tensor. They know no α and no σ, only a number that tells the time."""
