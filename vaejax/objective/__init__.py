"""What is minimised: for one example, then once for a batch.

elbo          the loss by default, from x to the scalar; read this first
likelihoods   p(x|z), and what else measures the distance between x and a decoder's answer
scales        the scale sigma of the likelihood
priors        p(z)
posteriors    q(z|x)
regularizers  what stands beside the reconstruction
bounds        how the terms of draws of z become a bound on log p(x)
schedules     how the weight of the KL term grows
context       the alternatives that a config names, bound to weights
batch         the loss of a batch, and its gradient

Each of likelihoods, scales, priors, posteriors, regularizers, bounds and schedules has one table,
name -> record. An entry there is all that an alternative takes: `config.Objective` reads its names
from the table, so the command line knows it, refuses it misspelt, and lists it.
"""
