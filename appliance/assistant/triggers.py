"""Files that make programs run without anybody asking for it: a folder is opened, a commit is made, packages are installed.

Rule: pure, by the name alone; whoever shows a proposed file says it (AI-4). A file that runs when it is asked for by its name (a script, a
Makefile) is none of these: there would be no end of them, and what is said too often is not read (AI-6).
"""

from __future__ import annotations

from fnmatch import fnmatchcase

# Who runs what the file says, each with patterns of a whole path in lower case; one without a slash is of the name alone.
_TRIGGERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("editor", (
        "*.code-workspace", "*/.vscode/*", "*/.devcontainer/*", ".devcontainer.json", "*/.idea/*", "*/.zed/*", ".vimrc", ".nvimrc",
        ".nvim.lua", ".exrc", ".dir-locals.el",
    )),
    ("git", (
        "*/.git/*", "*/.githooks/*", "*/.husky/*", ".gitattributes", ".gitmodules", ".gitconfig", ".pre-commit-config.y*ml",
        "lefthook.y*ml", ".lefthook.y*ml", "pre-commit", "prepare-commit-msg", "commit-msg", "post-commit", "post-checkout", "post-merge",
        "pre-push", "pre-rebase", "post-rewrite",
    )),
    ("shell", (
        ".envrc", ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".bash_aliases", ".profile", ".zshrc",
        ".zshenv", ".zprofile", ".zlogin", ".cshrc", ".tcshrc", ".login", "config.fish", "mise.toml", ".mise.toml", ".inputrc",
    )),
    ("tools", (
        ".npmrc", ".yarnrc", ".yarnrc.yml", "*/.yarn/*", ".pnpmfile.cjs", ".pnp.*js", "bunfig.toml", "package.json", "composer.json",
        "conftest.py", "sitecustomize.py", "usercustomize.py", "*.pth", "setup.py", "pip.conf", ".condarc", "*/.cargo/config*", "build.rs",
        ".bazelrc", "*/.mvn/*", "gradle-wrapper.properties", "*/.bundle/config", ".gdbinit", ".lldbinit", ".irbrc", ".pryrc",
        ".rprofile", ".pdbrc", ".eslintrc.*js", "eslint.config.*", ".prettierrc.*js", "prettier.config.*", ".babelrc.*js", "babel.config.*",
        "postcss.config.*", "vite.config.*", "webpack.config.*", "rollup.config.*", "jest.config.*", "next.config.*", "tailwind.config.*",
    )),
    ("elsewhere", (
        "*/.github/workflows/*", "*/.github/actions/*", ".gitlab-ci.yml", "*/.circleci/*", ".drone.yml", "jenkinsfile",
        "azure-pipelines.yml", "bitbucket-pipelines.yml",
    )),
    ("assistants", (
        "*/.claude/*", "*/.cursor/*", "*/.continue/*", "*/.windsurf/*", ".mcp.json", "agents.md", "claude.md", "gemini.md", ".cursorrules",
        ".windsurfrules", ".aider.conf.yml", "copilot-instructions.md",
    )),
)  # fmt: skip
RUN_BY = tuple(who for who, _ in _TRIGGERS)


def run_by(path: str) -> str:
    """Who runs what the file at ``path`` says (one of RUN_BY), '' for nobody. ``path`` is relative to the workspace, links followed."""
    whole = f"/{path.casefold()}"
    name = whole.rpartition("/")[2]
    for who, patterns in _TRIGGERS:
        if any(fnmatchcase(whole if "/" in pattern else name, pattern) for pattern in patterns):
            return who
    return ""
