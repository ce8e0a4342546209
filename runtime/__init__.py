"""The lean layer that runs exported models: stdlib, numpy, pillow; a backend's library when a model opens."""
