"""A model of the user's, as it is run around the layer at which y0 is fed back.

The model as a program of torch.export, which is cut at that layer; what its forward() reads and writes in Python,
so that a program is used only while it says the same, and so that a look at the model leaves no trace; which layers
channels and samples come from; and what passes have in common where the model runs whole, with a hook.
"""
