"""The lean layer that runs exported models: standard library, numpy and pillow; a backend's library on opening."""
