"""Rating new images with the model of a run, a flow for each method that makes a scorer and is not self_improve.

`<method>.py` holds `<method>_predict(recipe, images, out, iteration)`.
"""
