# The list of dependencies that cargo-auditable writes into a program, as a CycloneDX document. What only its build
# ran (build scripts and what they use) is no part of the program, and is left out.
def purl: "pkg:cargo/\(.name)@\(.version | gsub("\\+"; "%2B"))";
def component(type): {type: type, "bom-ref": purl, name, version, purl: purl};
.packages as $all
| [range($all | length) | select($all[.].kind != "build")] as $kept
| ($all[] | select(.root)) as $root
| {
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: {component: ($root | component("application"))},
    components: [$kept[] | $all[.] | select(.root | not) | component("library")],
    dependencies: [
      $kept[]
      | $all[.]
      | {ref: purl, dependsOn: [.dependencies[]? | select(IN($kept[])) | $all[.] | purl]}
    ]
  }
