from touchstone.evaluation.report import main
from touchstone.runtime.stage import run_stage

if __name__ == "__main__":
    run_stage(main)
