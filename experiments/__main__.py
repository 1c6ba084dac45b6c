"""Shows the commands: python -m experiments."""

from experiments.commands import COMMANDS

if __name__ == "__main__":
    width = max(map(len, COMMANDS))
    print("python -m experiments.NAME --help says more of each:\n")
    print("\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items()))
