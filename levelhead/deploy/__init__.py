"""Deploy: acting on new images with a trained run."""
