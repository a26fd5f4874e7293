"""Train on the digits that come with scikit-learn, and read what the run found out.

python examples/train_digits.py            # into the next free runs/digits-N
python examples/train_digits.py FOLDER     # into a new FOLDER
"""

from __future__ import annotations

import argparse

from levelhead import Recipe, Run, train


def main(out: str | None = None, epochs: int | None = None) -> Run:
    """Train with smoothing 0.1; print test metrics before and after temperature."""
    run = train(Recipe("digits", smoothing=0.1, epochs=epochs), out)
    found = run.findings
    print(f"{run.folder}: trained in {found['seconds']:.0f} s")
    for title, name in (("as trained", "test"), ("after temperature", "test_calibrated")):
        metrics = found[name]["metrics"]
        told = (
            f"{key} {metrics[key]['value']:.4f} ({metrics[key]['low']:.4f} to "
            f"{metrics[key]['high']:.4f})"
            for key in ("accuracy", "nll", "ece")
        )
        print(f"{title}, {found[name]['n']} test images: {', '.join(told)}")
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", help="a new folder for the run")
    parser.add_argument("--epochs", type=int, help="fewer epochs, for a quick look")
    given = parser.parse_args()
    main(given.out, given.epochs)
