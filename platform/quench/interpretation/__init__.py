"""What a model has learnt to look at: pictures for people, and numbers to compare models by.

Robust models have input gradients, representations and generated images that look like something to people
(Tsipras et al., arXiv 1805.12152; Engstrom et al., arXiv 1906.00945; Santurkar et al., arXiv 1906.09453).
Everything here is in eval mode, in pixels of [0, 1], with normalised steps in the Euclidean norm.
"""
