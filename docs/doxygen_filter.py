#!/usr/bin/env python3
"""Prints a header or a page as Doxygen is to read it; the file stays as it is, and no line is added or taken away.

Headers
- The labels of a comment (Shapes, Units, Math, Laws, Corner, Throws, Source) become a list. Lines of Math keep their
  breaks, and nothing in them is markup.
- What is documented once for many has its sentence added here, where it has no comment of its own: members that a
  concept asks for (MEMBERS), constructors, and data members that the comment of their struct names.
- An operator== that is defaulted says nothing and is left out. So is namespace detail (EXCLUDE_SYMBOLS in the Doxyfile).

Pages
- Headings get labels, and links to them lead there. Links to sources become plain text: the site has no page of them.
"""

import pathlib
import re
import sys

LABELS = "Shapes|Units|Math|Laws|Corner|Throws|Source"

# First words of a declaration that a concept asks for, and what is said of it.
MEMBERS = [
    (r"using Scalar = ", "The scalar that it computes in."),
    (r"OracleLimits limits\(\) const", "What the oracle declares: see Oracle."),
    (r"Matrix<Scalar> run\(const OracleCall<Scalar>& call\)", "Answers one call: see Oracle."),
    (r"void run_batch\(", "Answers several calls, in any order: see HasRunBatch."),
    (r"(constexpr )?Index query_blocks\(\) const", "Query blocks: see Tiling."),
    (r"(constexpr )?Rows queries_of\(Index", "The queries of a block: see Tiling."),
    (r"(constexpr )?TilingCounts counts\(\) const", "What the cut comes to: see Tiling."),
    (r"(constexpr )?void for_each_slot\(Index", "Calls visit(tiles) for the slots of a query block: see Tiling."),
    (r"(constexpr )?void for_each_run\(Index", "Calls visit(run) for slots of a query block that follow each other: see Tiling."),
    (r"(constexpr )?Index alike_until\(Index", "The end of the query blocks that come to the same as this one: see Tiling."),
    (r"void operator\(\)\(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out\)", "Evaluates a layer: see Attend."),
    (r"void operator\(\)\(const AttentionInput<Scalar>& input, Rows queries,", "Evaluates a part of a layer: see AttendInParts."),
    (r"void operator\(\)\(const RankInput<Scalar>& input, MatrixSpan<Scalar> out\)", "Evaluates a layer, each rank its own rows: see forward_on_ranks()."),
    (r"void end_layer\(\)", "Ends a layer that was evaluated in parts: see AttendInParts."),
    (r"void forward\(const AttentionInput<Scalar>& input,", "Evaluates a layer and says its log weights: see TrainableAttention."),
    (r"AttentionGradient<Scalar> backward\(const AttentionInput<Scalar>& input,", "Derivatives of a layer: see TrainableAttention."),
    (r"static constexpr bool concurrent = ", "Whether pieces of work may run at once: see Executor."),
    (r"void for_each\(Index count, const MakeLocal&", "Runs body(local, i) for all i: see Executor."),
    (r"void in_order\(const MakeLocal&", "Runs work as next() hands it out, and takes results in its order: see Executor."),
]
# Operations of a SimdBackend.
MEMBERS += [
    (r"static TWOHEADS_ALWAYS_INLINE ", "An operation on vectors: see SimdBackend."),
    (r"(static constexpr int (lanes|registers)|using (Parts|Vector) =)", "A fact of its vectors: see SimdBackend."),
]
CONSTRUCTOR = "Constructor; the comment of the class says what it takes and throws."

CLASS = re.compile(r"^( *)(?:template <.*> *)?(struct|class) (?:TWOHEADS_\w+ )?(\w+)[^;]*\{$")


def plain(text):
    """A comment's text, of which only `code` is markup."""
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        part = parts[i].replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        part = part.replace("@", "\\@").replace("#", "\\#").replace("%", "\\%").replace("*", "\\*").replace("_", "\\_")
        parts[i] = part
    return "".join(parts)


def labels(lines):
    """Labels of comments as a list, formulas and text without markup."""
    label = None
    out = []
    for line in lines:
        found = re.match(r"^( *)///( ?)(.*)$", line)
        if not found or line.lstrip().startswith("///<"):
            label = None
            trailing = re.match(r"^(.*///<)(.*)$", line)
            out.append(trailing[1] + plain(trailing[2]) if trailing else line)
            continue
        indent, blank, text = found.groups()
        start = re.match(rf"^ *({LABELS}) +(.*)$", text)
        if start:
            label = start[1]
            out.append(f"{indent}/// - **{label}** {plain(start[2])}" + ("<br>" if label == "Math" else ""))
        elif label and text.startswith("  "):
            out.append(f"{indent}///   {plain(text.strip())}" + ("<br>" if label == "Math" else ""))
        elif label is None and re.match(r"^ {2,}\S", text):
            # A list of the tree's own: a word, blanks, what it is.
            entry = re.match(r"^ {2,4}(\S+(?: \S+)*?) {2,}(\S.*)$", text)
            out.append(f"{indent}/// - `{entry[1]}` {plain(entry[2])}" if entry else f"{indent}///   {plain(text.strip())}")
        else:
            if not text.strip():
                out.append(line)
                continue
            if not text.startswith(" "):
                label = None
            out.append(f"{indent}///{blank}{plain(text)}")
    return out


def declared_names(line):
    """The names that a line of data members declares, with what stands before them; nothing for any other line."""
    bare = re.sub(r" *///<.*$", "", line).rstrip()
    if not bare.endswith(";") or re.match(r" *(using|friend|return|static_assert)\b", bare):
        return None
    bare = re.sub(r"(?: = |\{)[^,]*?(?=, \w|;)", "", bare)
    found = re.match(r"^( +(?:static constexpr |mutable |const )*[\w:]+(?:<.*>)?[&*]? (?:const )?[&*]?)(\w+(?:, \w+)*);$", bare)
    return (found[1], found[2].split(", ")) if found else None


def one_name_each(lines):
    """Doxygen gives a comment to the first of several names alone: `q, k; ///< rows` becomes two declarations."""
    for at, line in enumerate(lines):
        found = declared_names(line)
        trailing = re.search(r"///< ?(.*)$", line)
        if found and trailing and len(found[1]) > 1:
            lines[at] = "  " + " ".join(f"/** {trailing[1]} */ {found[0].strip()} {name};" for name in found[1])
    return lines


def documented(lines, at):
    """Whether the declaration in a line has a comment; the line where it begins."""
    first = at
    while first > 0 and re.match(r"^ *(template <|requires )", lines[first - 1]):
        first -= 1
    return "///<" in lines[at] or (first > 0 and lines[first - 1].lstrip().startswith("///")), first


def add_sentences(lines):
    """What has no comment and needs none of its own gets its sentence."""
    scopes = []  # (indent, name, comment, public)
    comment = ""
    for at, line in enumerate(lines):
        if line.lstrip().startswith("///") and not line.lstrip().startswith("///<"):
            comment = comment + " " + line if at > 0 and lines[at - 1].lstrip().startswith("///") else line
            continue
        while scopes and re.match(rf"^ {{{scopes[-1][0]}}}\}};?", line) and not line.startswith(" " * (scopes[-1][0] + 1)):
            scopes.pop()
        opened = CLASS.match(line)
        if opened:
            _, first = documented(lines, at)
            own = comment if first > 0 and lines[first - 1].lstrip().startswith("///") else ""
            scopes.append([len(opened[1]), opened[3], own, opened[2] == "struct"])
            continue
        if not scopes:
            continue
        indent, name, about, _ = scopes[-1]
        if re.match(rf"^ {{{indent + 1}}}(public|private|protected):", line):
            scopes[-1][3] = "public" in line
            continue
        if not scopes[-1][3] or not re.match(rf"^ {{{indent + 2}}}[\w\[~]", line):
            continue
        has, first = documented(lines, at)
        if has:
            continue
        text = line.strip()
        if re.match(r"friend .*operator==\(.*= default;$", text):
            lines[at] = ""
            continue
        bare = re.sub(r"^\[\[nodiscard\]\] ", "", text)
        sentence = next((says for begins, says in MEMBERS if re.match(begins, bare)), None)
        if sentence is None and re.match(rf"(explicit )?{name}\(", bare) and about:
            sentence = CONSTRUCTOR
        fields = declared_names(line)
        if sentence is None and fields and about:
            if all(re.search(rf"(?<![\w.]){field}(?!\w)", about) for field in fields[1]):
                sentence = f"See the comment of {name}."
        if sentence and fields and len(fields[1]) > 1:
            lines[at] = "  " + " ".join(f"/** {sentence} */ {fields[0].strip()} {field};" for field in fields[1])
            continue
        if sentence:
            lines[first] = re.sub(r"^( *)", rf"\1/** {sentence} */ ", lines[first])
    return lines


def label(stem, heading):
    """The label of a heading: the page's name, and the heading as it stands in links."""
    slug = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-")
    return f"{stem}-{slug}"


def page(path, text):
    """A page whose headings have labels, with links to other pages and to headings, and without comments for the tests."""
    text = re.sub(r"^<!-- (file|output|given|needs): .* -->$", "", text, flags=re.M)

    def link(found):
        target, _, heading = found[2].partition("#")
        if "://" in target:
            return found[0]
        if heading:
            return f"[{found[1]}](@ref {label(pathlib.Path(target or path.name).stem, heading.replace('-', ' '))})"
        own_page = target.endswith((".md", ".svg", ".png")) and "examples/" not in target
        return found[0] if own_page else found[1]

    lines = []
    inside = False
    for line in text.split("\n"):
        inside = inside != line.lstrip().startswith("```")
        heading = re.match(r"^(##+) (.*)$", line)
        if heading and not inside:
            line += f" {{#{label(path.stem, heading[2])}}}"
        lines.append(line if inside else re.sub(r"(?<!!)\[([^\]]*)\]\(([^)]*)\)", link, line))
    return "\n".join(lines)


def main():
    path = pathlib.Path(sys.argv[1])
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        sys.stdout.write(page(path, text))
        return
    sys.stdout.write("\n".join(labels(one_name_each(add_sentences(text.split("\n"))))))


main()
