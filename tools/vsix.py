"""`make vsix`: the editor's extension as one file, dist/croft-VERSION.vsix, for an editor that Croft did not start.

An appliance needs none: the same files are put in place before its editor starts (appliance/broker/editor_extension.py).
Rule: two builds of the same files give the same bytes (SUP-8).
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from appliance.broker.editor_extension import contents

STAMP = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say
TYPES = {".json": "application/json", ".js": "application/javascript", ".vsixmanifest": "text/xml"}


def pack(files: dict[str, bytes]) -> bytes:
    """A .vsix: a zip (Open Packaging Conventions) of two manifests and the extension's folder."""
    package = json.loads(files["package.json"])
    words = json.loads(files["package.nls.json"])
    whole = {"[Content_Types].xml": _types(), "extension.vsixmanifest": _manifest(package, words)}
    whole |= {f"extension/{name}": data for name, data in files.items()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in whole.items():
            entry = zipfile.ZipInfo(name, STAMP)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data, compresslevel=9)
    return made.getvalue()


def _types() -> bytes:
    rows = "".join(
        f"<Default Extension={quoteattr(end)} ContentType={quoteattr(kind)}/>" for end, kind in TYPES.items()
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">{rows}</Types>\n'
    ).encode()


def _manifest(package: dict[str, Any], words: dict[str, str]) -> bytes:
    engine = quoteattr(package["engines"]["vscode"])
    who = {"Id": package["name"], "Version": package["version"], "Publisher": package["publisher"]}
    identity = " ".join(f"{key}={quoteattr(value)}" for key, value in who.items())
    return f"""<?xml version="1.0" encoding="utf-8"?>
<PackageManifest Version="2.0.0" xmlns="http://schemas.microsoft.com/developer/vsx-schema/2011">
  <Metadata>
    <Identity Language="en-US" {identity}/>
    <DisplayName>{escape(package["displayName"])}</DisplayName>
    <Description xml:space="preserve">{escape(words["description"])}</Description>
    <Categories>Other</Categories>
    <Properties>
      <Property Id="Microsoft.VisualStudio.Code.Engine" Value={engine}/>
      <Property Id="Microsoft.VisualStudio.Code.ExtensionKind" Value="workspace"/>
    </Properties>
  </Metadata>
  <Installation><InstallationTarget Id="Microsoft.VisualStudio.Code"/></Installation>
  <Dependencies/>
  <Assets><Asset Type="Microsoft.VisualStudio.Code.Manifest" Path="extension/package.json" Addressable="true"/></Assets>
</PackageManifest>
""".encode()


def main() -> int:
    files = contents()
    target = Path("dist") / f"croft-{json.loads(files['package.json'])['version']}.vsix"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(pack(files))
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
