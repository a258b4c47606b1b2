//! To what a component grows: a few bytes can instantiate a component that instantiates another one, each a thousand times.
//!
//! The engine copies what a component instantiates into one flat list while it compiles, and gives each instance of a
//! module a context that no limiter sees. Neither has a bound of its own, so both are counted here before it is asked.
//!
//! Of the examples, CPython has the most: 114 instances, 3,268 parts, 0.7 MB of contexts. Go's has the largest contexts
//! (41,820 segments of data), and JavaScript's lies three deep.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef,
    ElementItems, Imports, Instance, Payload, SectionLimited,
};

/// How deep modules and components may lie in each other: JavaScript's are 3 deep, a composition adds one.
const DEPTH_MAX: usize = 8;

/// Instances of modules and components, each counted as often as the component around it is instantiated.
///
/// Only 50 instances of modules ever live; the others are bundles of names, of which CPython has 70.
const INSTANCES_MAX: u64 = 1_000;

/// Definitions, imports, exports, aliases and arguments of all these instances, which the engine lists one by one.
const PARTS_MAX: u64 = 100_000;

/// Bytes of the contexts of all instances of modules. An eighth of `limits.memory`, which does not count them.
const CONTEXT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What an instance keeps for each import, and for each function that something may point to.
const FUNCTION_BYTES: u64 = 32;

/// What an instance keeps for each global, tag, segment of data, and element of a passive segment.
const VALUE_BYTES: u64 = 16;

/// What an instance keeps for each table, memory and segment of elements, with what the host keeps beside it.
const TABLE_BYTES: u64 = 128;

/// Why a component is not compiled.
#[derive(Debug)]
pub(crate) enum Excess {
    /// It does not parse.
    Broken(wasmparser::Error),
    /// It grows too large: what was found and what the limit is.
    Grows(String),
}

impl From<wasmparser::Error> for Excess {
    fn from(error: wasmparser::Error) -> Self {
        Self::Broken(error)
    }
}

/// What one instance of a component, or all instances in it, come to.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    instances: u64,
    parts: u64,
    context_bytes: u64,
    /// Instances of modules that are handed in; each may be the largest one.
    given: u64,
}

/// A component whose sections are being read, or a module.
enum Scope {
    Component(Component),
    /// Bytes of the context of one instance.
    Module(u64),
}

#[derive(Default)]
struct Component {
    sum: Sum,
    /// The index space of modules: what an instance costs, where it is known.
    modules: Vec<Option<u64>>,
    /// The index space of components.
    components: Vec<Option<Sum>>,
}

/// Counts while a component is parsed.
pub(crate) struct Extent {
    /// From the outermost component to where the parser is.
    scopes: Vec<Scope>,
    /// The largest module so far.
    module_bytes: u64,
}

impl Extent {
    pub(crate) fn new() -> Self {
        Self { scopes: vec![Scope::Component(Component::default())], module_bytes: 0 }
    }

    /// How many modules and components are around what is parsed.
    pub(crate) fn depth(&self) -> usize {
        self.scopes.len().saturating_sub(1)
    }

    /// Takes the next piece that the parser has found.
    ///
    /// # Errors
    /// [`Excess`] as soon as the component is found to grow beyond a limit.
    pub(crate) fn see(&mut self, payload: &Payload<'_>) -> Result<(), Excess> {
        match payload {
            Payload::ModuleSection { .. } => self.scopes.push(Scope::Module(0)),
            Payload::ComponentSection { .. } => self.scopes.push(Scope::Component(Component::default())),
            Payload::End(_) => return self.leave(),
            Payload::ComponentAliasSection(aliases) => return self.aliases(aliases.clone()),
            // The scope itself knows what to do with all others.
            _ => {
                return match self.scopes.last_mut() {
                    Some(Scope::Component(component)) => component.see(payload),
                    Some(Scope::Module(bytes)) => {
                        *bytes = bytes.saturating_add(context_bytes(payload)?);
                        Ok(())
                    }
                    None => Ok(()),
                };
            }
        }
        let depth = self.depth();
        if depth > DEPTH_MAX {
            return Err(grows("modules and components inside each other", depth as u64, DEPTH_MAX as u64));
        }
        Ok(())
    }

    /// A module or a component is at its end.
    fn leave(&mut self) -> Result<(), Excess> {
        let ended = self.scopes.pop();
        let module_bytes = self.module_bytes;
        match (ended, self.scopes.last_mut()) {
            (Some(Scope::Module(bytes)), Some(Scope::Component(parent))) => {
                parent.modules.push(Some(bytes));
                self.module_bytes = module_bytes.max(bytes);
                Ok(())
            }
            (Some(Scope::Component(ended)), Some(Scope::Component(parent))) => {
                parent.components.push(Some(ended.sum));
                // Nobody may instantiate it; it is compiled nevertheless.
                ended.sum.check(module_bytes)
            }
            (Some(Scope::Component(root)), None) => root.sum.check(module_bytes),
            // A module holds nothing else.
            (Some(Scope::Module(_)) | None, None) | (_, Some(Scope::Module(_))) | (None, Some(_)) => Ok(()),
        }
    }

    /// Other names for things of other scopes and instances.
    fn aliases(&mut self, aliases: SectionLimited<'_, ComponentAlias<'_>>) -> Result<(), Excess> {
        for alias in aliases {
            let (mut module, mut component) = (None, None);
            match alias? {
                ComponentAlias::Outer { kind, count, index } => {
                    let up = usize::try_from(count).unwrap_or(usize::MAX);
                    let at = self.scopes.len().checked_sub(1).and_then(|last| last.checked_sub(up));
                    if let Some(Scope::Component(outer)) = at.and_then(|at| self.scopes.get(at)) {
                        match kind {
                            ComponentOuterAliasKind::CoreModule => {
                                module = Some(at_index(&outer.modules, index))
                            }
                            ComponentOuterAliasKind::Component => {
                                component = Some(at_index(&outer.components, index));
                            }
                            ComponentOuterAliasKind::CoreType | ComponentOuterAliasKind::Type => (),
                        }
                    }
                }
                ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => {
                    module = Some(None);
                }
                ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                    component = Some(None);
                }
                ComponentAlias::InstanceExport { .. } | ComponentAlias::CoreInstanceExport { .. } => (),
            }
            if let Some(Scope::Component(here)) = self.scopes.last_mut() {
                here.sum.add_parts(1);
                here.modules.extend(module);
                here.components.extend(component);
            }
        }
        Ok(())
    }
}

impl Component {
    fn see(&mut self, payload: &Payload<'_>) -> Result<(), Excess> {
        match payload {
            Payload::InstanceSection(instances) => self.core_instances(instances.clone())?,
            Payload::ComponentInstanceSection(instances) => self.instances(instances.clone())?,
            Payload::ComponentImportSection(imports) => {
                self.sum.add_parts(imports.count());
                for import in imports.clone() {
                    match import?.ty {
                        ComponentTypeRef::Module(_) => self.modules.push(None),
                        ComponentTypeRef::Component(_) => self.components.push(None),
                        // These hold nothing that could be instantiated.
                        _ => (),
                    }
                }
            }
            Payload::ComponentExportSection(exports) => {
                self.sum.add_parts(exports.count());
                for export in exports.clone() {
                    let export = export?;
                    // An export is one more name for the thing.
                    match export.kind {
                        ComponentExternalKind::Module => {
                            self.modules.push(at_index(&self.modules, export.index));
                        }
                        ComponentExternalKind::Component => {
                            self.components.push(at_index(&self.components, export.index));
                        }
                        // As above.
                        _ => (),
                    }
                }
            }
            Payload::CoreTypeSection(types) => self.sum.add_parts(types.count()),
            Payload::ComponentTypeSection(types) => self.sum.add_parts(types.count()),
            Payload::ComponentCanonicalSection(functions) => self.sum.add_parts(functions.count()),
            // Nothing that an instance would be made of.
            _ => (),
        }
        Ok(())
    }

    fn core_instances(&mut self, instances: SectionLimited<'_, Instance<'_>>) -> Result<(), Excess> {
        for instance in instances {
            self.sum.instances = self.sum.instances.saturating_add(1);
            match instance? {
                Instance::Instantiate { module_index, args } => {
                    self.sum.add_parts(args.len());
                    match at_index(&self.modules, module_index) {
                        Some(bytes) => {
                            self.sum.context_bytes = self.sum.context_bytes.saturating_add(bytes);
                        }
                        None => self.sum.given = self.sum.given.saturating_add(1),
                    }
                }
                Instance::FromExports(exports) => self.sum.add_parts(exports.len()),
            }
        }
        Ok(())
    }

    fn instances(&mut self, instances: SectionLimited<'_, ComponentInstance<'_>>) -> Result<(), Excess> {
        for instance in instances {
            self.sum.instances = self.sum.instances.saturating_add(1);
            match instance? {
                ComponentInstance::Instantiate { component_index, args } => {
                    self.sum.add_parts(args.len());
                    let Some(inner) = at_index(&self.components, component_index) else {
                        let what = "an instance of a component that is handed to it, which could be chained without end";
                        return Err(Excess::Grows(what.to_owned()));
                    };
                    self.sum.add(inner);
                }
                ComponentInstance::FromExports(exports) => self.sum.add_parts(exports.len()),
            }
        }
        Ok(())
    }
}

impl Sum {
    fn add(&mut self, inner: Self) {
        let Self { instances, parts, context_bytes, given } = inner;
        self.instances = self.instances.saturating_add(instances);
        self.parts = self.parts.saturating_add(parts);
        self.context_bytes = self.context_bytes.saturating_add(context_bytes);
        self.given = self.given.saturating_add(given);
    }

    fn add_parts(&mut self, parts: impl TryInto<u64>) {
        self.parts = self.parts.saturating_add(parts.try_into().unwrap_or(u64::MAX));
    }

    fn check(&self, module_bytes: u64) -> Result<(), Excess> {
        if self.instances > INSTANCES_MAX {
            return Err(grows("instances of modules and components", self.instances, INSTANCES_MAX));
        }
        if self.parts > PARTS_MAX {
            return Err(grows("definitions, imports and exports of its instances", self.parts, PARTS_MAX));
        }
        let bytes = self.context_bytes.saturating_add(self.given.saturating_mul(module_bytes));
        if bytes > CONTEXT_BYTES_MAX {
            let what = "bytes for the globals, functions and segments of its instances";
            return Err(grows(what, bytes, CONTEXT_BYTES_MAX));
        }
        Ok(())
    }
}

fn grows(what: &str, found: u64, limit: u64) -> Excess {
    Excess::Grows(format!("{found} {what}, at most {limit} are taken"))
}

/// What an index of an index space stands for. One that is out of it is left to the validator.
fn at_index<T: Copy>(space: &[Option<T>], index: u32) -> Option<T> {
    usize::try_from(index).ok().and_then(|index| space.get(index).copied().flatten())
}

/// What a section of a module adds to the context of each instance of it.
fn context_bytes(payload: &Payload<'_>) -> Result<u64, Excess> {
    let times = |count: u32, bytes: u64| u64::from(count).saturating_mul(bytes);
    Ok(match payload {
        Payload::ImportSection(imports) => {
            let mut bytes = 0_u64;
            for group in imports.clone() {
                let count = match group? {
                    Imports::Single(..) => 1,
                    Imports::Compact1 { items, .. } => items.count(),
                    Imports::Compact2 { names, .. } => names.count(),
                };
                // An imported function may be pointed to as well.
                bytes = bytes.saturating_add(times(count, 2 * FUNCTION_BYTES));
            }
            bytes
        }
        Payload::FunctionSection(functions) => times(functions.count(), FUNCTION_BYTES),
        Payload::GlobalSection(globals) => times(globals.count(), VALUE_BYTES),
        Payload::TagSection(tags) => times(tags.count(), VALUE_BYTES),
        Payload::DataSection(segments) => times(segments.count(), VALUE_BYTES),
        Payload::TableSection(tables) => times(tables.count(), TABLE_BYTES),
        Payload::MemorySection(memories) => times(memories.count(), TABLE_BYTES),
        Payload::ElementSection(segments) => {
            let mut bytes = times(segments.count(), TABLE_BYTES);
            for segment in segments.clone() {
                let items = match segment?.items {
                    ElementItems::Functions(items) => items.count(),
                    ElementItems::Expressions(_, items) => items.count(),
                };
                bytes = bytes.saturating_add(times(items, VALUE_BYTES));
            }
            bytes
        }
        // Types, code and custom sections are the module's, not an instance's.
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use wasmparser::Parser;

    use super::*;

    /// A number in the format's variable length.
    fn leb(mut number: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let low = u8::try_from(number & 0x7f).unwrap();
            number >>= 7;
            bytes.push(if number == 0 { low } else { low | 0x80 });
            if number == 0 {
                return bytes;
            }
        }
    }

    fn section(id: u8, body: &[u8]) -> Vec<u8> {
        [&[id][..], &leb(body.len()), body].concat()
    }

    /// A section of `count` times the same entry.
    fn list(id: u8, count: usize, entry: &[u8]) -> Vec<u8> {
        section(id, &[leb(count), entry.repeat(count)].concat())
    }

    fn module(sections: &[Vec<u8>]) -> Vec<u8> {
        [b"\0asm\x01\0\0\0".to_vec(), sections.concat()].concat()
    }

    fn component(sections: &[Vec<u8>]) -> Vec<u8> {
        [b"\0asm\x0d\0\x01\0".to_vec(), sections.concat()].concat()
    }

    fn inner_module(module: &[u8]) -> Vec<u8> {
        section(1, module)
    }

    fn inner_component(component: &[u8]) -> Vec<u8> {
        section(4, component)
    }

    /// `count` instances of the first module that a component knows.
    fn core_instances(count: usize) -> Vec<u8> {
        list(2, count, &[0, 0, 0])
    }

    /// `count` instances of the first component that a component knows.
    fn instances(count: usize) -> Vec<u8> {
        list(5, count, &[0, 0, 0])
    }

    fn measure(wasm: &[u8]) -> Result<(), String> {
        let mut extent = Extent::new();
        for payload in Parser::new(0).parse_all(wasm) {
            extent.see(&payload.unwrap()).map_err(|excess| match excess {
                Excess::Broken(error) => panic!("{error}"),
                Excess::Grows(what) => what,
            })?;
        }
        Ok(())
    }

    /// Scenario: a component that instantiates another one a thousand times, which does so with a third, and so on.
    /// Guarantees: it is refused by what it unfolds to; the same with few instances, and many side by side, are taken.
    #[test]
    fn nested_instances_are_counted_as_often_as_they_are_made() {
        let nested = |times: usize| {
            (0..4).fold(component(&[]), |inner, _| component(&[inner_component(&inner), instances(times)]))
        };
        assert_eq!(
            measure(&nested(1_000)).unwrap_err(),
            "1001000 instances of modules and components, at most 1000 are taken"
        );
        measure(&nested(5)).unwrap();
        measure(&component(&[inner_component(&component(&[])), instances(900)])).unwrap();
    }

    /// Scenario: the inner component is reached by another name: an alias of the outer one's, or an export of itself.
    /// Guarantees: it counts all the same.
    #[test]
    fn another_name_for_a_component_hides_nothing() {
        let many = component(&[inner_component(&component(&[])), instances(1_000)]);
        let outer = component(&[section(6, &[1, 4, 2, 1, 0]), instances(2)]);
        let aliased = component(&[inner_component(&many), inner_component(&outer)]);
        assert!(measure(&aliased).unwrap_err().starts_with("2002 instances"));
        // The export is the second name.
        let export = section(11, &[1, 0, 1, b'c', 4, 0, 0]);
        let exported = component(&[inner_component(&many), export, list(5, 2, &[0, 1, 0])]);
        assert!(measure(&exported).unwrap_err().starts_with("2002 instances"));
    }

    /// Scenario: a component that instantiates what it imports: in another file it could be any component.
    /// Guarantees: it is refused.
    #[test]
    fn a_component_that_is_handed_in_is_not_instantiated() {
        let (kind, import) = (section(7, &[1, 0x41, 0]), section(10, &[1, 0, 1, b'c', 4, 0]));
        let error = measure(&component(&[kind, import, instances(1)])).unwrap_err();
        assert!(error.contains("handed"), "{error}");
    }

    /// Scenario: nine components in each other; types that are defined again in each of many instances.
    /// Guarantees: both are refused, naming what was found and the limit.
    #[test]
    fn depth_and_definitions_are_bounded() {
        let deep = |levels: usize| {
            (0..levels).fold(component(&[]), |inner, _| component(&[inner_component(&inner)]))
        };
        measure(&deep(8)).unwrap();
        assert!(
            measure(&deep(9))
                .unwrap_err()
                .starts_with("9 modules and components inside each other, at most 8")
        );
        let wordy = component(&[list(7, 1_000, &[0x7f])]);
        let error = measure(&component(&[inner_component(&wordy), instances(200)])).unwrap_err();
        assert!(error.starts_with("200000 definitions"), "{error}");
    }

    /// Scenario: modules with many globals, many functions, one passive segment of many elements, each instantiated once and often.
    /// Guarantees: what the engine would keep for all instances is bounded: no limiter sees it.
    #[test]
    fn contexts_of_instances_are_bounded() {
        let globals = module(&[list(6, 20_000, &[0x7f, 0, 0x41, 0, 0x0b])]);
        let instantiated = |module: &[u8], count| component(&[inner_module(module), core_instances(count)]);
        measure(&instantiated(&globals, 1)).unwrap();
        let error = measure(&instantiated(&globals, 50)).unwrap_err();
        assert!(error.starts_with("16000000 bytes for the globals") && error.contains("8388608"), "{error}");
        let elements = [&[1, 1, 0][..], &leb(600_000), &vec![0; 600_000]].concat();
        assert!(measure(&instantiated(&module(&[section(9, &elements)]), 1)).is_err());
        // Behind an instance: what costs how much is known at the end only.
        let handed = component(&[
            section(3, &[1, 0x50, 0]),
            section(10, &[1, 0, 1, b'm', 0, 0x11, 0]),
            core_instances(50),
        ]);
        let late = component(&[inner_component(&handed), instances(1), inner_module(&globals)]);
        assert!(measure(&late).is_err());
    }

    /// Scenario: a real component, frozen at the contract's first release.
    /// Guarantees: it is taken.
    #[test]
    fn a_real_component_is_taken() {
        let frozen = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/frozen/1.0.0/spans-c.wasm");
        measure(&std::fs::read(frozen).unwrap()).unwrap();
    }
}
