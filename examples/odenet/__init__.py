"""The ODENet of the examples, in small files: data, model, training, checkpoints, pictures.

The network is the one of Chen et al., "Neural Ordinary Differential Equations" (2018), doi:10.48550/arXiv.1806.07366,
made of dense layers.
"""
